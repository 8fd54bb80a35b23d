"""What stitching works on: the windows that were segmented one by one, and the instances found in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from condinst.instances import Instances, RleMasks
from pipeline.records import Window
from pipeline.stitch.regions import Ints, Rects

Mask = NDArray[np.bool_]
FAR = np.iinfo(np.int32).max
"""A distance to a border that is not there."""

_INSIDE = 0.25  # rectangles share a pixel where those shrunk by this touch


@dataclass(frozen=True)
class Windows:
    """k windows in the pixels of one grid; build them with `Windows.of`.

    `rects` (k, 4): left, top, right, bottom. `raster` (k,): which raster each is of. `interior` (k, 4):
    whether another window goes on beyond that side, so that an instance there may be cut. `rank` (k,): the
    place of each in an order that does not depend on theirs. `full` (k,): whether all their pixels hold data.
    `bounds`, `neighbours`: those that share a pixel with window i are `neighbours[bounds[i]:bounds[i + 1]]`.
    """

    rects: Rects
    raster: Ints
    interior: Mask
    rank: Ints
    full: Mask
    bounds: Ints
    neighbours: Ints

    def __len__(self) -> int:
        return len(self.rects)

    @staticmethod
    def of(
        windows: Sequence[Window], rasters: Sequence[int] | None = None, full: Sequence[bool] | None = None
    ) -> Windows:
        """The windows that were segmented, of one raster or of several on one grid of pixels.

        `rasters` numbers the raster of each; `full` says of each whether all of it is data, None that they
        are. Windows that failed must not be among them: what a window that saw a place did not find there is
        taken to be nothing. ValueError for a window that comes twice.
        """
        rects = np.array([[w.x, w.y, w.x + w.width, w.y + w.height] for w in windows], np.int64).reshape(
            -1, 4
        )
        raster = np.zeros(len(rects), np.int64) if rasters is None else np.array(rasters, np.int64)
        order = np.lexsort((rects[:, 2], rects[:, 3], rects[:, 0], rects[:, 1], raster))
        keys = np.column_stack([raster, rects])[order]
        twice = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1))
        if len(twice):
            raise ValueError(f"the window {windows[order[twice[0]]]} comes twice")
        rank = np.empty(len(rects), np.int64)
        rank[order] = np.arange(len(rects))
        one, other = touching(rects, rects, -_INSIDE)  # those that lie side by side too
        apart = one != other
        one, other = one[apart], other[apart]
        beyond = rects[other] * [-1, -1, 1, 1] > rects[one] * [-1, -1, 1, 1]
        interior = np.zeros((len(rects), 4), bool)
        np.logical_or.at(interior, one, beyond)
        shared = _share_pixels(rects[one], rects[other])
        one, other = one[shared], other[shared]
        bounds = np.append(0, np.cumsum(np.bincount(one, minlength=len(rects))))
        data = np.ones(len(rects), bool) if full is None else np.array(full, bool)
        return Windows(rects, raster, interior, rank, data, bounds, other)

    def distances(self, rects: Rects, window: Ints) -> Ints:
        """(n, 4) pixels between each rectangle and the interior borders of its window, the nearest first.

        0 at a border, negative beyond, `FAR` for a border that is not interior. Of two windows the one with
        the greater row, compared like words, sees the rectangle farther inside.
        """
        frame = self.rects[window]
        away = np.concatenate([rects[:, :2] - frame[:, :2], frame[:, 2:] - rects[:, 2:]], axis=1)
        return np.sort(np.where(self.interior[window], away, FAR), axis=1)

    def seen_by_others(self, rects: Rects, window: Ints) -> Mask:
        """(n,) whether another window than its own sees a pixel of each rectangle."""
        seen = np.zeros(len(rects), bool)
        for one in np.unique(window).tolist():
            own = np.flatnonzero(window == one)
            others = self.rects[self.neighbours[self.bounds[one] : self.bounds[one + 1]]]
            seen[own] = _share_pixels(rects[own, None], others[None]).any(axis=1)
        return seen


@dataclass(frozen=True)
class Fragments:
    """n instances and the windows that saw them: `window` (n,), and `found` in the pixels of the grid.

    Of an instance that was stitched, the window is the one whose view of it was taken, or showed most of it.
    """

    window: Ints
    found: Instances

    def __len__(self) -> int:
        return len(self.window)

    @staticmethod
    def of_window(windows: Windows, number: int, found: Instances) -> Fragments:
        """The instances of one window, given in its own pixels; those without a pixel are left out."""
        found = pick(found, found.masks.area > 0)
        left, top = windows.rects[number, :2].tolist()
        return Fragments(np.full(len(found), number, np.int64), moved(found, left, top))

    def take(self, index: Ints | Mask) -> Fragments:
        """Those at an array of positions, or of n booleans."""
        return Fragments(self.window[index], pick(self.found, index))

    @staticmethod
    def concatenate(parts: Sequence[Fragments]) -> Fragments:
        """All of `parts`, in order."""
        window = np.concatenate([np.zeros(0, np.int64), *(part.window for part in parts)])
        return Fragments(window, concatenated(part.found for part in parts))


def pick(found: Instances, index: Ints | Mask) -> Instances:
    """The instances at an array of positions, or of n booleans."""
    return Instances(found.boxes[index], found.scores[index], found.classes[index], found.masks[index])


def moved(found: Instances, x: int, y: int) -> Instances:
    """Instances of a window or a raster whose top left pixel is at (`x`, `y`) of the grid, in its pixels."""
    masks, shift = found.masks, np.array([x, y, x, y], np.float32)
    placed = RleMasks(
        (masks.x + x).astype(np.int32),
        (masks.y + y).astype(np.int32),
        masks.height,
        masks.width,
        masks.area,
        masks.counts,
    )
    return Instances(found.boxes + shift, found.scores, found.classes, placed)


def concatenated(parts: Iterable[Instances]) -> Instances:
    """All instances of `parts`, in order."""
    several = list(parts)
    return Instances(
        np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in several)]),
        np.concatenate([np.zeros(0, np.float32), *(part.scores for part in several)]),
        np.concatenate([np.zeros(0, np.int64), *(part.classes for part in several)]),
        RleMasks.concatenate(part.masks for part in several),
    )


def touching(a: Rects, b: Rects, inset: float = _INSIDE) -> tuple[Ints, Ints]:
    """Pairs (i, j), sorted, of rectangles `a[i]` and `b[j]` that share a pixel, by a spatial index."""
    if len(a) == 0 or len(b) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    left, right = (_shrunk(rects, inset) for rects in (a, b))
    i, j = shapely.STRtree(right).query(left)
    order = np.lexsort((j, i))
    return i[order].astype(np.int64), j[order].astype(np.int64)


def _shrunk(rects: Rects, inset: float) -> NDArray[np.object_]:
    edges = rects + np.array([inset, inset, -inset, -inset])
    boxes: NDArray[np.object_] = shapely.box(edges[:, 0], edges[:, 1], edges[:, 2], edges[:, 3])
    return boxes


def _share_pixels(a: Rects, b: Rects) -> Mask:
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    sharing: Mask = overlap.min(axis=-1) > 0
    return sharing
