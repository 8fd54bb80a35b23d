"""Pairs of masks compared, and masks united, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from condinst.instances import RleMasks
from pipeline.stitch.regions import Ints, Rects, Regions, masks_of, regions_of, restrict, shared_areas, unite

_TOGETHER = 1 << 20
"""Stretches of masks in memory together, roughly, however many masks there are and however large."""


def crops(masks: RleMasks) -> Rects:
    """(n, 4) each mask's crop as left, top, right, bottom."""
    columns = (masks.x, masks.y, masks.x + masks.width, masks.y + masks.height)
    return np.stack(columns, axis=1).astype(np.int64)


def overlaps(
    a: RleMasks, i: Ints, b: RleMasks, j: Ints, within: tuple[Rects, Rects] | None = None
) -> tuple[Ints, Ints, Ints]:
    """Pixels of `a[i]`, of `b[j]`, and of both, for m pairs.

    `within` is a rectangle (m, 4) for each of the two; pixels outside it do not count.
    """
    areas = np.zeros((3, len(i)), np.int64)
    box_a, box_b = crops(a), crops(b)
    for at in _slices(_stretches(a)[i] + _stretches(b)[j]):
        one, two = _some(a, i[at]), _some(b, j[at])
        if within is not None:
            one, two = restrict(one, within[0][at]), restrict(two, within[1][at])
        low = np.maximum(box_a[i[at], :2], box_b[j[at], :2])
        box = np.concatenate([low, np.minimum(box_a[i[at], 2:], box_b[j[at], 2:])], axis=1)
        shared = shared_areas(restrict(one, box), restrict(two, box), box)
        areas[:, at] = one.areas(), two.areas(), shared
    return areas[0], areas[1], areas[2]


def united(masks: RleMasks, number: Ints, count: int) -> RleMasks:
    """`count` unions, of the masks with their `number`, which counts up from 0 without gaps."""
    bounds = np.searchsorted(number, np.arange(count + 1))
    cost = np.add.reduceat(_stretches(masks), bounds[:-1]) if count else np.zeros(0, np.int64)
    parts = []
    for at in _slices(cost):
        members = slice(bounds[at.start], bounds[at.stop])
        regions = unite(regions_of(masks[members]), number[members] - at.start, at.stop - at.start)
        parts.append(masks_of(regions))
    return RleMasks.concatenate(parts)


def _some(masks: RleMasks, index: Ints) -> Regions:
    """The masks at positions that may repeat, each read once."""
    wanted, place = np.unique(index, return_inverse=True)
    return regions_of(masks[wanted]).take(place)


def _stretches(masks: RleMasks) -> Ints:
    """(n,) about how many stretches of pixels a mask has: one a column, and one a run more."""
    return np.array([len(counts) // 2 for counts in masks.counts], np.int64) + masks.width.astype(np.int64)


def _slices(cost: Ints) -> Iterator[slice]:
    """Consecutive slices, each of about `_TOGETHER` in cost or of one."""
    number = (np.cumsum(cost) - cost) // _TOGETHER
    cuts = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(cost)).tolist()
    yield from (slice(begin, end) for begin, end in pairwise(cuts))
