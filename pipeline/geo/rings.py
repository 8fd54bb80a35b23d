"""Outlines of many masks at once, from their run lengths: no pixel is ever drawn.

A mask's boundary is found as its vertical stretches, where one column of pixels differs from the next. On
every horizontal grid line their ends pair up into horizontal stretches, and following both alternately goes
round each ring. All masks of a batch are worked on together, in arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condinst import rle
from condinst.instances import RleMasks

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rings:
    """Rings of several masks, one after another, those of a mask together.

    `x`, `y` (n,): corners in image pixels, pixel (x, y) covering x to x + 1 and y to y + 1; a ring's last
    corner is its first. `bounds` (k + 1,): ring i has the corners `bounds[i]` to `bounds[i + 1]`. `mask`
    (k,): whose it is. `area` (k,): pixels inside, negative for a hole. No ring meets itself. In a picture
    whose y grows downward outlines run counterclockwise and holes clockwise.
    """

    x: Ints
    y: Ints
    bounds: Ints
    mask: Ints
    area: Ints


@dataclass(frozen=True)
class _Stretches:
    """Vertical stretches of boundary. Stretch i has two ends, the upper numbered 2 i, the lower 2 i + 1."""

    x: Ints
    """(2 n,) of each end, in pixels of its crop; `y` and `mask` likewise."""
    y: Ints
    mask: Ints
    doubled: Ints
    """Ends in whose corner the next end lies too: where a stretch ends, another begins."""
    down: NDArray[np.bool_]
    """(n,) whether the mask lies right of the stretch; its ring then runs down along it."""

    def __len__(self) -> int:
        return len(self.down)


def trace(masks: RleMasks) -> Rings:
    """The rings of all masks; a mask without pixels has none. Pixels that meet in a corner alone are apart.

    Raises ValueError for an RLE that does not fit its crop.
    """
    stretches = _stretches(masks)
    swapped = np.zeros(2 * len(stretches), bool)
    place, ring = _walk(_following(stretches, masks, swapped))
    end = stretches.doubled
    twice = end[ring[end // 2] == ring[(end + 1) // 2]]
    if len(twice):
        # Where a ring comes to one corner twice, turning the other way there makes two rings of it.
        swapped[twice] = swapped[twice + 1] = True
        place, ring = _walk(_following(stretches, masks, swapped))
    return _rings(stretches, masks, place, ring)


def _stretches(masks: RleMasks) -> _Stretches:
    """From the runs of every mask to its vertical stretches of boundary."""
    height, width = masks.height.astype(np.int64), masks.width.astype(np.int64)
    starts, stops, mask = _positive(masks, height * width)
    # A run that goes on in the next column is cut there.
    high = height[mask]
    first = starts // high
    pieces = (stops - 1) // high - first + 1
    owner = np.repeat(np.arange(len(starts)), pieces)
    column = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    mask, high = mask[owner], high[owner]
    top = np.maximum(starts[owner] - column * high, 0)
    bottom = np.minimum(stops[owner] - column * high, high)
    # Corners of the pixel grid are numbered, mask after mask, down each vertical line. On the line left of a
    # column the mask comes to lie right where a run of the column begins; on the line right of it, it ceases.
    base = np.cumsum((height + 1) * (width + 1)) - (height + 1) * (width + 1)
    left = base[mask] + column * (high + 1)
    right = left + high + 1
    corner = np.concatenate([left + top, left + bottom, right + top, right + bottom])
    step = np.repeat(np.array([1, -1, -1, 1], np.int64), len(left))
    corner, change = _summed(corner, step)
    # A change by two, from one side to the other, ends one stretch and begins another.
    times = np.abs(change)
    ends = np.repeat(corner, times)
    beyond = np.repeat(np.cumsum(change), times)  # of each end: on which side the mask lies below it
    mask = np.searchsorted(base, ends, side="right") - 1
    x, y = np.divmod(ends - base[mask], height[mask] + 1)
    doubled = np.flatnonzero(ends[1:] == ends[:-1])
    return _Stretches(x, y, mask, doubled, beyond[::2] > 0)


def _positive(masks: RleMasks, sizes: Ints) -> tuple[Ints, Ints, Ints]:
    """Begin, end and mask of every run of pixels, in each crop's own column-major order."""
    edges = [np.cumsum(rle.runs(counts)) for counts in masks.counts]
    for number, (edge, size) in enumerate(zip(edges, sizes.tolist(), strict=True)):
        if (edge[-1] if len(edge) else 0) != size:
            raise ValueError(f"the RLE of mask {number} does not have the {size} pixels of its crop")
    none = np.zeros(0, np.int64)
    begin = np.concatenate([none, *(edge[:-1:2] for edge in edges)])
    end = np.concatenate([none, *(edge[1::2] for edge in edges)])
    mask = np.repeat(np.arange(len(edges)), [len(edge) // 2 for edge in edges])
    some = end > begin
    return begin[some], end[some], mask[some]


def _summed(corner: Ints, step: Ints) -> tuple[Ints, Ints]:
    """Corners in rising order, each once, with the sum of their steps; those whose sum is 0 left out."""
    order = np.argsort(corner, kind="stable")
    corner = corner[order]
    heads = np.flatnonzero(np.diff(corner, prepend=-1))
    change = np.add.reduceat(step[order], heads) if len(heads) else step
    corner = corner[heads]
    return corner[change != 0], change[change != 0]


def _following(stretches: _Stretches, masks: RleMasks, swapped: NDArray[np.bool_]) -> Ints:
    """(n,) the stretch that comes after each on its ring.

    Where four meet, two pixels of the mask lie corner to corner: there a ring keeps to its pixel, and at ends
    that are `swapped` crosses to the other one.
    """
    width = masks.width.astype(np.int64) + 1
    base = np.cumsum(width * (masks.height + 1)) - width * (masks.height + 1)
    # Along a horizontal line, ends pair up from the left. Of two in one corner, the first goes leftward: the
    # one that bounds the pixel to its left.
    rightward = np.repeat(stretches.down, 2) ^ swapped
    place = base[stretches.mask] + stretches.y * width[stretches.mask] + stretches.x
    order = np.argsort(2 * place + rightward)
    mate = np.empty(len(order), np.int64)
    mate[order[::2]], mate[order[1::2]] = order[1::2], order[::2]
    following: Ints = mate[2 * np.arange(len(stretches)) + stretches.down] // 2
    return following


def _walk(following: Ints) -> tuple[Ints, Ints]:
    """(n,) place of each stretch on its ring, and (n,) the number of its ring.

    By doubling: after k rounds every stretch has looked 2^k stretches ahead.
    """
    own = np.arange(len(following))
    least, jump = own, following
    while (least[following] != least).any():
        least, jump = np.minimum(least, least[jump]), jump[jump]
    # Steps to go to the ring's least stretch, which is its first.
    steps = (least != own).astype(np.int64)
    jump = np.where(steps == 0, own, following)
    while (left := steps[jump]).any():
        steps, jump = steps + left, jump[jump]
    firsts, ring = np.unique(least, return_inverse=True)
    length = np.bincount(ring, minlength=len(firsts))[ring]
    return np.where(steps == 0, 0, length - steps), ring


def _rings(stretches: _Stretches, masks: RleMasks, place: Ints, ring: Ints) -> Rings:
    """Corners in order: along every stretch from where it is entered to where it is left."""
    number = np.arange(len(stretches))
    lengths = np.bincount(ring) if len(ring) else np.zeros(0, np.int64)
    bounds = np.append(0, np.cumsum(2 * lengths + 1))
    at = bounds[ring] + 2 * place
    entered, left = 2 * number + ~stretches.down, 2 * number + stretches.down
    x, y = np.empty(bounds[-1], np.int64), np.empty(bounds[-1], np.int64)
    for shift, end in ((0, entered), (1, left)):
        x[at + shift], y[at + shift] = stretches.x[end], stretches.y[end]
    x[bounds[1:] - 1], y[bounds[1:] - 1] = x[bounds[:-1]], y[bounds[:-1]]
    mask = np.empty(len(lengths), np.int64)
    mask[ring] = stretches.mask[::2]
    area = np.bincount(
        ring, stretches.x[::2] * (stretches.y[entered] - stretches.y[left]), minlength=len(lengths)
    )
    corners = np.repeat(mask, 2 * lengths + 1)
    x += masks.x[corners]
    y += masks.y[corners]
    return Rings(x, y, bounds, mask, np.rint(area).astype(np.int64))
