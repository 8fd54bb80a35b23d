"""Instances from pixels, and back, for the tests of stitching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from condinst import rle
from condinst.instances import Instances, RleMasks
from pipeline.records import Window
from pipeline.stitch.fragments import concatenated


def instances(
    frames: Sequence[np.ndarray], scores: Sequence[float] = (), classes: Sequence[int] = ()
) -> Instances:
    """Instances of one image from its (height, width) masks; none may be empty."""
    if len(frames) == 0:
        return concatenated([])
    rects = []
    for frame in frames:
        rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
        rects.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    x, y, right, bottom = np.array(rects, np.int32).T
    counts = [rle.encode(frame[t:b, a:c]) for frame, (a, t, c, b) in zip(frames, rects, strict=True)]
    area = np.array([frame.sum() for frame in frames], np.int64)
    return Instances(
        boxes=np.array(rects, np.float32),
        scores=np.array(scores or [0.9] * len(frames), np.float32),
        classes=np.array(classes or [0] * len(frames), np.int64),
        masks=RleMasks(x, y, bottom - y, right - x, area, counts),
    )


def frames_of(masks: RleMasks, height: int, width: int) -> np.ndarray:
    """(n, height, width) the masks' pixels."""
    out = np.zeros((len(masks), height, width), bool)
    for at in range(len(masks)):
        x, y, h, w = (int(column[at]) for column in (masks.x, masks.y, masks.height, masks.width))
        out[at, y : y + h, x : x + w] = rle.decode(masks.counts[at], h, w)
    return out


def tiled(side: int, size: int, overlap: int) -> list[Window]:
    """Windows over a square, the last ones shifted inward."""
    starts = [*range(0, side - size, size - overlap), side - size]
    return [Window(x, y, size, size) for y in starts for x in starts]


def seen(
    window: Window, frames: Sequence[np.ndarray], scores: Sequence[float], classes: Sequence[int]
) -> Instances:
    """What a window sees of a raster's instances."""
    cut = [f[window.y : window.y + window.height, window.x : window.x + window.width] for f in frames]
    kept = [at for at, frame in enumerate(cut) if frame.any()]
    return instances([cut[at] for at in kept], [scores[at] for at in kept], [classes[at] for at in kept])


def ellipse(side: int, x: float, y: float, a: float, b: float) -> np.ndarray:
    """A (side, side) frame of an ellipse's pixels."""
    rows, columns = np.mgrid[0:side, 0:side]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1
