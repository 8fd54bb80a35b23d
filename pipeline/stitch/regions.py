"""Masks as vertical stretches of pixels: clipped, compared and united from their runs, many at a time.

Nothing here builds a frame or a crop of pixels. The cost of every function is that of the runs it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condinst import rle
from condinst.instances import RleMasks

Ints = NDArray[np.int64]
Rects = NDArray[np.int64]
"""(n, 4) left, top, right, bottom in pixels; right and bottom are not inside."""

_MORE = 0x20
_CHARACTER = 48


@dataclass(frozen=True)
class Regions:
    """n masks: mask i has the stretches `bounds[i]` to `bounds[i + 1]`, by column, then downwards.

    A stretch is the pixels `top` to `bottom` (exclusive) of column `x`. Those of a mask share no pixel.
    """

    bounds: Ints
    x: Ints
    top: Ints
    bottom: Ints

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def owner(self) -> Ints:
        """The mask of each stretch."""
        return np.repeat(np.arange(len(self)), np.diff(self.bounds))

    def areas(self) -> Ints:
        """(n,) pixels of each mask."""
        return _sums(self.bottom - self.top, self.bounds)

    def extents(self) -> Rects:
        """The tight rectangle round each mask; zeros for a mask without pixels."""
        rects = np.zeros((len(self), 4), np.int64)
        some = np.flatnonzero(np.diff(self.bounds))
        if len(some):
            first, last = self.bounds[some], self.bounds[some + 1] - 1
            rects[some, 0], rects[some, 2] = self.x[first], self.x[last] + 1
            rects[some, 1] = np.minimum.reduceat(self.top, first)
            rects[some, 3] = np.maximum.reduceat(self.bottom, first)
        return rects

    def take(self, index: Ints) -> Regions:
        """The masks at these positions, in their order, repeated where a position is."""
        sizes = np.diff(self.bounds)[index]
        bounds = np.append(0, np.cumsum(sizes))
        at = np.arange(bounds[-1]) + np.repeat(self.bounds[index] - bounds[:-1], sizes)
        return Regions(bounds, self.x[at], self.top[at], self.bottom[at])


def regions_of(masks: RleMasks) -> Regions:
    """Crop-local RLE masks as regions of the pixels that their x and y count.

    Raises ValueError for counts that are not a COCO compressed RLE or have not their crop's pixels.
    """
    lengths, bounds = _runs(masks.counts)
    height, width = masks.height.astype(np.int64), masks.width.astype(np.int64)
    totals = _sums(lengths, bounds)
    if (totals != height * width).any():
        at = int(np.flatnonzero(totals != height * width)[0])
        raise ValueError(f"an RLE has {totals[at]} pixels, not those of a {height[at]}x{width[at]} crop")
    place = np.arange(len(lengths)) - np.repeat(bounds[:-1], np.diff(bounds))
    owner = np.repeat(np.arange(len(masks)), np.diff(bounds))
    end = np.cumsum(lengths) - (np.cumsum(totals) - totals)[owner]
    on = (place % 2 == 1) & (lengths > 0)
    start, end, owner = (end - lengths)[on], end[on], owner[on]
    # A run that goes on in the next column is cut there.
    tall = height[owner]
    first = start // tall
    pieces = (end - 1) // tall - first + 1
    run = np.repeat(np.arange(len(start)), pieces)
    column = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    mask, foot = owner[run], column * tall[run]
    top = np.maximum(start[run] - foot, 0) + masks.y[mask]
    bottom = np.minimum(end[run] - foot, tall[run]) + masks.y[mask]
    return Regions(_bounds(mask, len(masks)), column + masks.x[mask], top, bottom)


def masks_of(regions: Regions) -> RleMasks:
    """Regions as crop-local RLE masks with tight crops; one without pixels is a 1 x 1 crop at (0, 0)."""
    masks = RleMasks.empty(len(regions))
    some = np.flatnonzero(np.diff(regions.bounds))
    if len(some) == 0:
        return masks
    rects = regions.extents()[some]
    filled = Regions(np.append(regions.bounds[some], len(regions.x)), regions.x, regions.top, regions.bottom)
    width, height = rects[:, 2] - rects[:, 0], rects[:, 3] - rects[:, 1]
    masks.x[some], masks.y[some], masks.height[some], masks.width[some] = (
        rects[:, 0],
        rects[:, 1],
        height,
        width,
    )
    masks.area[some] = filled.areas()
    start, end, ends = _on_a_line(filled, rects)
    owner = filled.owner
    # A stretch at a column's foot goes on at the head of the next.
    joined = (start[1:] == end[:-1]) & (owner[1:] == owner[:-1])
    begins, stops = np.append(True, ~joined), np.append(~joined, True)
    bounds = _bounds(owner[begins], len(some))
    points = np.empty(2 * bounds[-1] + len(some), np.int64)
    at = 2 * np.arange(bounds[-1]) + np.repeat(np.arange(len(some)), np.diff(bounds))
    last = 2 * bounds[1:] + np.arange(len(some))
    points[at], points[at + 1], points[last] = start[begins], end[stops], ends
    lengths = np.diff(points, prepend=0)
    kept = np.ones(len(lengths), bool)
    kept[last] = lengths[last] > 0
    texts = rle.from_many_runs(lengths[kept], np.append(0, np.cumsum(kept)[last]))
    for number, text in zip(some.tolist(), texts, strict=True):
        masks.counts[number] = text
    return masks


def restrict(regions: Regions, rects: Rects) -> Regions:
    """Each mask without its pixels outside its rectangle."""
    box = rects[regions.owner]
    top, bottom = np.maximum(regions.top, box[:, 1]), np.minimum(regions.bottom, box[:, 3])
    kept = (regions.x >= box[:, 0]) & (regions.x < box[:, 2]) & (top < bottom)
    bounds = np.append(0, np.cumsum(kept))[regions.bounds]
    return Regions(bounds, regions.x[kept], top[kept], bottom[kept])


def shared_areas(a: Regions, b: Regions, rects: Rects) -> Ints:
    """(n,) pixels that mask i of `a` and mask i of `b` share; both lie inside rectangle i."""
    start, end, _ = _on_a_line(a, rects)
    from_, to, _ = _on_a_line(b, rects)
    if len(start) == 0 or len(from_) == 0:
        return np.zeros(len(a), np.int64)
    below = np.append(0, np.cumsum(to - from_))

    def pixels_before(position: Ints) -> Ints:
        at = np.searchsorted(from_, position, side="right") - 1
        inside = np.minimum(position, to[at]) - from_[at]
        return np.where(at < 0, 0, below[at] + inside)

    return _sums(pixels_before(end) - pixels_before(start), a.bounds)


def unite(regions: Regions, groups: Ints, count: int) -> Regions:
    """`count` unions: mask i goes to union `groups[i]`."""
    if len(regions.x) == 0:
        nothing = np.zeros(0, np.int64)
        return Regions(np.zeros(count + 1, np.int64), nothing, nothing, nothing)
    group = groups[regions.owner]
    order = np.lexsort((regions.top, regions.x, group))
    group, x = group[order], regions.x[order]
    low = int(regions.top.min())
    column = np.cumsum(np.append(False, (group[1:] != group[:-1]) | (x[1:] != x[:-1])))
    foot = column * (int(regions.bottom.max()) - low + 1) - low
    start, end = regions.top[order] + foot, regions.bottom[order] + foot
    reach = np.maximum.accumulate(end)
    begins = np.flatnonzero(np.append(True, start[1:] > reach[:-1]))
    bottom = np.maximum.reduceat(end, begins) - foot[begins]
    return Regions(_bounds(group[begins], count), x[begins], start[begins] - foot[begins], bottom)


def _on_a_line(regions: Regions, rects: Rects) -> tuple[Ints, Ints, Ints]:
    """Starts and ends of all stretches where the rectangles lie one after another, each down its columns.

    The third is where each rectangle ends.
    """
    tall = rects[:, 3] - rects[:, 1]
    sizes = np.maximum(rects[:, 2] - rects[:, 0], 0) * np.maximum(tall, 0)
    ends = np.cumsum(sizes)
    owner = regions.owner
    origin = (ends - sizes - rects[:, 0] * tall - rects[:, 1])[owner] + regions.x * tall[owner]
    return origin + regions.top, origin + regions.bottom, ends


def _runs(counts: list[bytes]) -> tuple[Ints, Ints]:
    """Run lengths of many masks, as `condinst.rle.from_many_runs` takes them."""
    sizes = np.array([len(text) for text in counts], np.int64)
    codes = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - _CHARACTER
    more = (codes & _MORE) != 0
    ends = np.cumsum(sizes)
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or more[ends[sizes > 0] - 1].any()):
        raise ValueError("a mask's counts are not a COCO compressed RLE")
    if len(codes) == 0:
        return codes, np.zeros(len(counts) + 1, np.int64)
    last = np.flatnonzero(~more)
    first = np.append(0, last[:-1] + 1)
    digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), first)
    values -= np.where(codes[last] & 0x10, np.int64(1) << (5 * (digit[last] + 1)), 0)
    bounds = np.append(0, np.searchsorted(last, ends - 1, side="right"))
    bounds[1:] = np.maximum.accumulate(bounds[1:])
    return _undone(values, bounds), bounds


def _undone(values: Ints, bounds: Ints) -> Ints:
    """From differences to the count two before, in each mask from the fourth count on, to counts."""
    place = np.arange(len(values)) - np.repeat(bounds[:-1], np.diff(bounds))
    for chosen in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        at = np.flatnonzero(chosen)
        total = np.append(0, np.cumsum(values[at]))
        begin = np.searchsorted(at, bounds[:-1])
        values[at] = total[1:] - np.repeat(total[begin], np.diff(np.append(begin, len(at))))
    if len(values) and values.min() < 0:
        raise ValueError("a mask's counts are not a COCO compressed RLE: a run is negative")
    return values


def _bounds(owner: Ints, count: int) -> Ints:
    return np.append(0, np.cumsum(np.bincount(owner, minlength=count)))


def _sums(values: Ints, bounds: Ints) -> Ints:
    total = np.append(0, np.cumsum(values))
    sums: Ints = total[bounds[1:]] - total[bounds[:-1]]
    return sums
