"""Keeps a mask that several rasters' windows make up off the pixels that its own raster has no data for."""

from __future__ import annotations

import numpy as np

from condinst import rle
from condinst.instances import Instances, RleMasks
from pipeline.stitch.fragments import Fragments, Mask, Windows, concatenated, pick, touching
from pipeline.stitch.overlap import crops
from pipeline.stitch.regions import Ints, masks_of, regions_of


def without_gaps(fragments: Fragments, raster: Ints, windows: Windows) -> Instances:
    """The fragments' instances, each to be a part of one that belongs to `raster` (n,).

    What windows of other rasters saw is left out where only windows of its own one looked that held nodata:
    these say what they found on data, and nothing says which pixels beside it hold some. A fragment of which
    nothing is left has no pixel, and a box of none.
    """
    found = fragments.found
    foreign = np.flatnonzero(windows.raster[fragments.window] != raster)
    if windows.full.all() or not len(foreign):
        return found
    which, other = touching(crops(found.masks)[foreign], windows.rects)
    own = windows.raster[other] == raster[foreign[which]]
    which, other = foreign[which[own]], other[own]
    parts = [pick(found, np.array([at])) for at in range(len(found))]
    for at in np.unique(which[~windows.full[other]]).tolist():
        parts[at] = _trimmed(parts[at], windows, other[which == at])
    return concatenated(parts)


def _trimmed(one: Instances, windows: Windows, own: Ints) -> Instances:
    """An instance without the pixels that `own` windows with nodata saw, and none without."""
    left, top, right, bottom = crops(one.masks)[0].tolist()
    keep: Mask = np.ones((bottom - top, right - left), bool)
    for full in (False, True):
        for x, y, end, foot in windows.rects[own[windows.full[own] == full]].tolist():
            keep[max(0, y - top) : max(0, foot - top), max(0, x - left) : max(0, end - left)] = full
    pixels = rle.decode(one.masks.counts[0], *keep.shape) & keep
    if not pixels.any():
        nowhere = np.array([[np.inf, np.inf, -np.inf, -np.inf]], np.float32)
        return Instances(nowhere, one.scores, one.classes, RleMasks.empty(1))
    masks = RleMasks(
        one.masks.x,
        one.masks.y,
        one.masks.height,
        one.masks.width,
        np.array([pixels.sum()]),
        [rle.encode(pixels)],
    )
    masks = masks_of(regions_of(masks))
    near = crops(masks).astype(np.float32)
    boxes = np.concatenate(
        [np.maximum(one.boxes[:, :2], near[:, :2]), np.minimum(one.boxes[:, 2:], near[:, 2:])], axis=1
    )
    return Instances(boxes, one.scores, one.classes, masks)
