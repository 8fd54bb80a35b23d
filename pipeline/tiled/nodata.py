"""Keeps instances off pixels that hold no data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from condinst import rle
from condinst.instances import Instances, RleMasks

LEAST = 0.5
"""An instance of which less lies on data is one that the model saw in the blackness beyond."""


def on_data(found: Instances, valid: NDArray[np.bool_]) -> Instances:
    """The instances without their pixels where `valid` (height, width) is false; boxes shrink with them.

    Those of which less than half lies on data are left out.
    """
    masks, boxes = found.masks, found.boxes.copy()
    parts: list[RleMasks] = []
    keep = np.ones(len(found), bool)
    for at in range(len(found)):
        mask = masks[slice(at, at + 1)]
        x, y, height, width = (int(side[0]) for side in (mask.x, mask.y, mask.height, mask.width))
        data = valid[y : y + height, x : x + width]
        if not data.all():
            pixels = rle.decode(mask.counts[0], height, width) & data
            area = int(pixels.sum())
            keep[at] = area > 0 and area >= LEAST * mask.area[0]
            mask = tight(pixels, x, y) if keep[at] else RleMasks.empty(1)
            left, top = float(mask.x[0]), float(mask.y[0])
            right, bottom = left + float(mask.width[0]), top + float(mask.height[0])
            boxes[at, :2] = np.maximum(boxes[at, :2], [left, top])
            boxes[at, 2:] = np.maximum(boxes[at, :2], np.minimum(boxes[at, 2:], [right, bottom]))
        parts.append(mask)
    kept = RleMasks.concatenate(parts)[keep]
    return Instances(boxes[keep], found.scores[keep], found.classes[keep], kept)


def off_frame(found: Instances, left: int, top: int, size: tuple[int, int]) -> Instances:
    """Instances on data, found in pixels that a frame lies around, in those within it; `size` is theirs."""
    boxes = found.boxes - np.array([left, top, left, top], np.float32)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clip(0, size[1]), boxes[:, 1::2].clip(0, size[0])
    masks = replace(found.masks, x=found.masks.x - np.int32(left), y=found.masks.y - np.int32(top))
    return Instances(boxes, found.scores, found.classes, masks)


def tight(pixels: NDArray[np.bool_], x: int, y: int) -> RleMasks:
    """One mask of a crop's pixels, of which some are set; (`x`, `y`) is the crop's top left."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return RleMasks(
        x=np.array([x + columns[0]], np.int32),
        y=np.array([y + rows[0]], np.int32),
        height=np.array([crop.shape[0]], np.int32),
        width=np.array([crop.shape[1]], np.int32),
        area=np.array([crop.sum()], np.int64),
        counts=[rle.encode(crop)],
    )
