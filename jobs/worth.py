"""What makes an image worth labelling, from what a run found in it: each 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.stitch.seams import along

HALF_DENSITY = 100
"""Instances at which an image's density counts one half."""
_SAME = 0.5
"""Box IoU from which two runs' instances are the same thing."""


@dataclass(frozen=True)
class Found:
    """What a run found in one image."""

    boxes: NDArray[np.float64]
    """(n, 4) x1, y1, x2, y2."""
    scores: NDArray[np.float64]
    classes: NDArray[np.object_]
    borders: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    """(s, 4) those between the windows of its raster (`pipeline.stitch.seams.seam_lines`)."""


def uncertainty(found: Found) -> float:
    """Mean over instances of how undecided their score is: 1 at 0.5, 0 at 0 and 1; nothing found is 0."""
    return float((1 - np.abs(2 * found.scores - 1)).mean()) if len(found.scores) else 0.0


def density(found: Found) -> float:
    """n / (n + 100) of n instances."""
    return len(found.scores) / (len(found.scores) + HALF_DENSITY)


def disagreement(ours: Found, theirs: Found) -> float:
    """1 less the F1 score of two runs, whose instances match by class and box, best scores first."""
    total = len(ours.scores) + len(theirs.scores)
    if total == 0:
        return 0.0
    if not len(ours.scores) or not len(theirs.scores):
        return 1.0
    overlap = _iou(ours.boxes, theirs.boxes) * (ours.classes[:, None] == theirs.classes[None, :])
    matched = 0
    for row in np.argsort(-ours.scores, kind="stable"):
        column = int(overlap[row].argmax())
        if overlap[row, column] >= _SAME:
            matched += 1
            overlap[:, column] = 0
    return 1 - 2 * matched / total


def seams(found: Found) -> float:
    """Share of the instances that lie within 32 pixels of a border between windows: cut, or joined."""
    if not len(found.scores):
        return 0.0
    rects = np.concatenate([np.floor(found.boxes[:, :2]), np.ceil(found.boxes[:, 2:])], axis=1)
    return float(along(rects.astype(np.int64), found.borders).mean())


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))
