"""COCO run-length encodings without pixels: strings to runs, runs to strings, crops to frames.

Runs are counted down the columns, zeros first. The string form ("compressed RLE") stores each count less the
one two before it, five bits a character, as pycocotools does.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Runs = NDArray[np.int64]

_FIRST_DELTA = 3  # pycocotools stores counts 0, 1 and 2 as they are
_MORE = 0x20
_OFFSET = 48


def encode(mask: NDArray[np.bool_]) -> bytes:
    """COCO compressed RLE of a (height, width) mask."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The (height, width) mask of a COCO compressed RLE; ValueError where it has not that many pixels."""
    lengths = _checked(counts, height, width)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def area(counts: bytes) -> int:
    """Number of positive pixels."""
    return int(runs(counts)[1::2].sum())


def runs(counts: bytes) -> Runs:
    """Run lengths, zeros first, of a COCO compressed RLE; ValueError where the string is not one."""
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - _OFFSET
    if len(codes) == 0:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & _MORE:
        raise ValueError(f"not a COCO compressed RLE: {counts[:40]!r}")
    starts = np.flatnonzero(np.concatenate([[True], (codes[:-1] & _MORE) == 0]))
    digit = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    ends = np.append(starts[1:], len(codes)) - 1
    negative = (codes[ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * (digit[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise ValueError(f"not a COCO compressed RLE, a run is negative: {counts[:40]!r}")
    return values


def from_runs(lengths: NDArray[np.integer]) -> bytes:
    """COCO compressed RLE of run lengths, zeros first."""
    return from_many_runs(np.asarray(lengths, dtype=np.int64), np.array([0, len(lengths)]))[0]


def from_many_runs(lengths: Runs, bounds: Runs) -> list[bytes]:
    """COCO compressed RLE of many masks at once: mask i has the runs `lengths[bounds[i]:bounds[i + 1]]`."""
    text, cuts = packed(lengths, bounds)
    data = text.tobytes()
    return [data[begin:end] for begin, end in pairwise(cuts.tolist())]


def packed(lengths: Runs, bounds: Runs) -> tuple[NDArray[np.uint8], Runs]:
    """The same as one array of characters: mask i has those from `cuts[i]` to `cuts[i + 1]`."""
    values = _deltas(lengths, bounds)
    # Digits of five bits in two's complement: as many as keep the sign; one for most.
    left = np.flatnonzero((values < -0x10) | (values > 0xF))
    digits = np.ones(len(values), dtype=np.int64)
    longer = left
    magnitude = np.where(values[longer] < 0, ~values[longer], values[longer])
    while len(longer):
        digits[longer] += 1
        more = (magnitude >> (5 * digits[longer] - 1)) != 0
        longer, magnitude = longer[more], magnitude[more]
    ends = np.cumsum(digits)
    starts = ends - digits
    text = np.empty(ends[-1] if len(ends) else 0, dtype=np.uint8)
    text[starts] = (values.astype(np.uint8) & 0x1F) + np.uint8(_OFFSET)
    text[starts[left]] += np.uint8(_MORE)
    place = 1
    while len(left):
        more = digits[left] > place + 1
        text[starts[left] + place] = ((values[left] >> (5 * place)) & 0x1F) + _OFFSET + _MORE * more
        left = left[more]
        place += 1
    return text, np.concatenate([[0], ends])[bounds]


def many_runs(text: NDArray[np.uint8], bounds: Runs, first: int = 0) -> tuple[Runs, Runs]:
    """Run lengths of many compressed RLEs, mask i's string being `text[bounds[i]:bounds[i + 1]]`.

    Returns lengths and bounds as `packed` takes them. Raises ValueError, naming the mask (counted from
    `first`), for a string that is none.
    """
    codes = text - np.uint8(_OFFSET)
    ends = np.flatnonzero(codes < _MORE) + 1
    cuts = np.searchsorted(ends, bounds, side="right")
    _check_codes(codes, ends, cuts, bounds, first)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    digits = ends - starts
    values = (codes[starts] & 0x1F).astype(np.int64)
    longer, place = np.flatnonzero(digits > 1), 1
    while len(longer):
        values[longer] |= (codes[starts[longer] + place] & 0x1F).astype(np.int64) << (5 * place)
        place += 1
        longer = longer[digits[longer] > place]
    negative = np.flatnonzero(codes[ends - 1] & 0x10)
    values[negative] -= np.int64(1) << (5 * digits[negative])
    lengths = _summed(values, cuts)
    if len(lengths) and lengths.min() < 0:
        at = int(np.searchsorted(cuts, lengths.argmin(), side="right")) - 1
        raise ValueError(f"mask {first + at}: not a COCO compressed RLE, a run is negative")
    return lengths, cuts


def segment_sums(values: Runs, bounds: Runs) -> Runs:
    """Running sums that begin anew at each of `bounds`."""
    sums: Runs = np.cumsum(values)
    before: Runs = np.concatenate([[0], sums])[bounds[:-1]]
    sums -= np.repeat(before, np.diff(bounds))
    return sums


def embed(counts: bytes, x: int, y: int, height: int, width: int, full_height: int, full_width: int) -> bytes:
    """A crop's RLE as that of the full frame, found from the runs alone.

    The crop of `height` x `width` pixels has its top left at (`x`, `y`) of the frame. ValueError where it is
    not inside, or where the RLE has not the crop's number of pixels.
    """
    if x < 0 or y < 0 or x + width > full_width or y + height > full_height:
        raise ValueError(
            f"a crop of {height}x{width} at x={x}, y={y} is not inside a frame of {full_height}x{full_width}"
        )
    edges = np.cumsum(_checked(counts, height, width))
    starts = edges[:-1:2]
    ends = edges[1::2]
    # A run that goes on in the next column is cut there: in the frame, other rows lie between.
    first = starts // height
    pieces = np.maximum((ends - 1) // height - first + 1, 0)
    owner = np.repeat(np.arange(len(starts)), pieces)
    column = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    shift = (x + column) * full_height + y - column * height
    begin = np.maximum(starts[owner], column * height) + shift
    end = np.minimum(ends[owner], (column + 1) * height) + shift
    return from_runs(_runs_between(begin, end, full_height * full_width))


def cut(counts: bytes, full_height: int, full_width: int, x: int, y: int, height: int, width: int) -> bytes:
    """The crop of a full frame's RLE that has its top left at (`x`, `y`), found from the runs alone.

    ValueError where the crop is not inside, or where the RLE has not the frame's number of pixels.
    """
    if x < 0 or y < 0 or x + width > full_width or y + height > full_height:
        raise ValueError(
            f"a crop of {height}x{width} at x={x}, y={y} is not inside a frame of {full_height}x{full_width}"
        )
    edges = np.cumsum(_checked(counts, full_height, full_width))
    starts, ends = edges[:-1:2], edges[1::2]
    first = starts // full_height
    pieces = np.maximum((ends - 1) // full_height - first + 1, 0)
    owner = np.repeat(np.arange(len(starts)), pieces)
    column = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = column * full_height + y
    begin = np.maximum(starts[owner] - top, 0)
    end = np.minimum(ends[owner] - top, height)
    kept = (begin < end) & (column >= x) & (column < x + width)
    shift = (column[kept] - x) * height
    return from_runs(_runs_between(begin[kept] + shift, end[kept] + shift, height * width))


def _runs_between(begin: Runs, end: Runs, total: int) -> Runs:
    """Run lengths over `total` pixels of sorted positive stretches [begin, end), joined where they touch."""
    joined = begin[1:] == end[:-1]
    begin = begin[np.concatenate([[True], ~joined])] if len(begin) else begin
    end = end[np.concatenate([~joined, [True]])] if len(end) else end
    edges = np.stack([begin, end], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=total)
    return lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths


def _checked(counts: bytes, height: int, width: int) -> Runs:
    lengths = runs(counts)
    if lengths.sum() != height * width:
        raise ValueError(f"the RLE has {lengths.sum()} pixels, not those of a {height}x{width} mask")
    return lengths


def _check_codes(codes: NDArray[np.uint8], ends: Runs, cuts: Runs, bounds: Runs, first: int) -> None:
    """Raise ValueError for a string with other characters, or one that ends within a number."""
    open_ended = np.diff(bounds) > 0
    open_ended &= np.concatenate([[0], ends])[cuts[1:]] != bounds[1:]
    wrong = np.flatnonzero(codes > 0x3F)
    at = [int(np.searchsorted(bounds, wrong[0], side="right")) - 1] if len(wrong) else []
    at += np.flatnonzero(open_ended)[:1].tolist()
    if at:
        raise ValueError(f"mask {first + min(at)}: not a COCO compressed RLE")


def _deltas(lengths: Runs, bounds: Runs) -> Runs:
    """Each count less the one two before it in its mask, from the fourth count on."""
    values = lengths.copy()
    values[2:] -= lengths[:-2]
    heads = bounds[:-1][:, None] + np.arange(_FIRST_DELTA)
    heads = heads[heads < bounds[1:, None]]
    values[heads] = lengths[heads]
    return values


def _summed(values: Runs, bounds: Runs) -> Runs:
    """The reverse: the counts of each mask from its differences."""
    counts = np.diff(bounds)
    # Every mask begins at an even place, so that the counts to be summed are every other one of all.
    gap = counts & 1
    place = np.arange(len(values)) + np.repeat(np.cumsum(gap) - gap, counts)
    aligned = np.zeros(len(values) + int(gap.sum()), np.int64)
    aligned[place] = values
    firsts = bounds[:-1][counts > 0]
    aligned[place[firsts]] = 0
    rows = (counts + gap) // 2
    ends = np.concatenate([[0], np.cumsum(rows)])
    for parity in (0, 1):
        aligned[parity::2] = segment_sums(aligned[parity::2], ends)
    lengths: Runs = aligned[place]
    lengths[firsts] = values[firsts]
    return lengths
