"""Crops' RLEs as those of their whole images, many at a time, from the strings alone: no pixel is drawn.

What `condinst.rle.embed` does for one mask, in arrays over all of them. Strings are packed: one array of
characters, and the bounds of each mask's within it, as Arrow keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condinst import rle
from condinst.rle import Runs

Characters = NDArray[np.uint8]

_CHARACTERS = 1 << 17
"""Of strings worked on together: their runs stay in the processor's cache."""


@dataclass(frozen=True)
class Crops:
    """n crops in their images, in pixels: (n,) each one's top left corner and size, and its image's size."""

    x: Runs
    y: Runs
    height: Runs
    width: Runs
    full_height: Runs
    full_width: Runs

    def __getitem__(self, some: slice) -> Crops:
        parts = (self.x, self.y, self.height, self.width, self.full_height, self.full_width)
        return Crops(*(part[some] for part in parts))

    def check(self) -> None:
        """Raise ValueError where a crop is not inside its image."""
        outside = (self.x < 0) | (self.y < 0) | (self.height < 1) | (self.width < 1)
        outside |= self.x + self.width > self.full_width
        outside |= self.y + self.height > self.full_height
        if outside.any():
            at = int(outside.argmax())
            raise ValueError(
                f"mask {at}: a crop of {self.height[at]}x{self.width[at]} at x={self.x[at]}, y={self.y[at]} "
                f"is not inside a frame of {self.full_height[at]}x{self.full_width[at]}"
            )


def embed_many(text: Characters, bounds: Runs, crops: Crops) -> tuple[Characters, Runs]:
    """Compressed RLEs of whole images from those of crops, packed as they came.

    Mask i is `text[bounds[i] : bounds[i + 1]]`. Returns characters and bounds likewise, equal to what
    `condinst.rle.embed` gives mask by mask. Raises ValueError, naming the mask, for a crop that is not inside
    its image, and for a string that is no RLE of its crop.
    """
    crops.check()
    parts, sizes = [np.zeros(0, np.uint8)], [np.zeros(1, np.int64)]
    for some in _chunks(bounds):
        cut = bounds[some.start : some.stop + 1]
        characters, ends = _embed(text[cut[0] : cut[-1]], cut - cut[0], crops[some], some.start)
        parts.append(characters)
        sizes.append(np.diff(ends))
    return np.concatenate(parts), np.cumsum(np.concatenate(sizes))


def _chunks(bounds: Runs) -> Iterator[slice]:
    """Ranges of masks of about `_CHARACTERS`, at least one mask each."""
    first, count = 0, len(bounds) - 1
    while first < count:
        last = int(np.searchsorted(bounds, bounds[first] + _CHARACTERS, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield slice(first, last)
        first = last


def _embed(text: Characters, bounds: Runs, crops: Crops, first: int) -> tuple[Characters, Runs]:
    lengths, bounds = rle.many_runs(text, bounds, first)
    edges = rle.segment_sums(lengths, bounds)
    _check_totals(edges, bounds, crops, first)
    place = np.arange(len(lengths)) - np.repeat(bounds[:-1], np.diff(bounds))
    odd = np.flatnonzero((place & 1).astype(bool) & (lengths > 0))
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[odd]
    begin, end, owner = _stretches(edges[odd - 1], edges[odd], owner, crops)
    begin, end, owner = _joined(begin, end, owner)
    return rle.packed(*_runs_between(begin, end, owner, crops.full_height * crops.full_width))


def _check_totals(edges: Runs, bounds: Runs, crops: Crops, first: int) -> None:
    counts = np.diff(bounds)
    totals = np.where(counts > 0, edges[np.maximum(bounds[1:] - 1, 0)] if len(edges) else 0, 0)
    wrong = totals != crops.height * crops.width
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"mask {first + at}: the RLE has {totals[at]} pixels, not those of a "
            f"{crops.height[at]}x{crops.width[at]} mask"
        )


def _stretches(starts: Runs, ends: Runs, owner: Runs, crops: Crops) -> tuple[Runs, Runs, Runs]:
    """Stretches of pixels [begin, end) in their frames; one that goes on in the next column is cut there."""
    high = crops.height[owner]
    beside = (crops.full_height - crops.height)[owner]  # rows of the frame that the crop lacks
    # Exact in float64 below 2^52 pixels, and quicker than whole numbers divide.
    column = (starts / high).astype(np.int64)
    crossing = np.flatnonzero((ends > (column + 1) * high) & (beside > 0))
    if len(crossing):
        more = np.zeros(len(starts), np.int64)
        more[crossing] = (ends[crossing] - 1) // high[crossing] - column[crossing]
        source = np.repeat(np.arange(len(starts)), more + 1)
        after = np.arange(len(source)) - np.repeat(np.cumsum(more + 1) - more - 1, more + 1)
        high, beside, owner, column = high[source], beside[source], owner[source], column[source] + after
        starts = np.where(after > 0, column * high, starts[source])
        ends = np.where(after < more[source], (column + 1) * high, ends[source])
    shift = column * beside + (crops.x * crops.full_height + crops.y)[owner]
    return starts + shift, ends + shift, owner


def _joined(begin: Runs, end: Runs, owner: Runs) -> tuple[Runs, Runs, Runs]:
    """The stretches with those that touch made one."""
    touch = (begin[1:] == end[:-1]) & (owner[1:] == owner[:-1])
    if not touch.any():
        return begin, end, owner
    opens, closes = np.concatenate([[True], ~touch]), np.concatenate([~touch, [True]])
    return begin[opens], end[closes], owner[opens]


def _runs_between(begin: Runs, end: Runs, owner: Runs, totals: Runs) -> tuple[Runs, Runs]:
    """Run lengths and their bounds, of frames of `totals` pixels, from sorted stretches."""
    pieces = np.bincount(owner, minlength=len(totals))
    firsts = np.cumsum(pieces) - pieces
    some = pieces > 0
    before = np.concatenate([[0], end[:-1]]) if len(end) else end
    before[firsts[some]] = 0
    rest = totals.copy()
    rest[some] -= end[(firsts + pieces - 1)[some]]
    tail = rest > 0
    bounds = np.concatenate([[0], np.cumsum(2 * pieces + tail)])
    place = bounds[owner] + 2 * (np.arange(len(begin)) - firsts[owner])
    lengths = np.empty(bounds[-1], np.int64)
    lengths[place] = begin - before
    lengths[place + 1] = end - begin
    lengths[bounds[1:][tail] - 1] = rest[tail]
    return lengths, bounds
