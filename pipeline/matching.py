"""Which of two sets of masks on one image are the same thing: by IoU, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pycocotools import mask as coco

from pipeline.rowmasks import combined, full_frame_counts

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shapes:
    """n masks of one image of (height, width): their RLEs of the whole image, and boxes around them."""

    size: tuple[int, int]
    counts: Sequence[bytes]
    boxes: Floats
    """(n, 4) left, top, right, bottom."""

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of_rows(cls, rows: pa.Table, size: tuple[int, int]) -> Shapes:
        """Those of rows with `mask`. Raises ValueError for a mask that is not inside the image."""
        masks = combined(rows["mask"])
        height, width = (np.full(len(masks), side, np.int64) for side in size)
        counts = full_frame_counts(masks, height, width).cast(pa.large_binary()).to_pylist()
        x, y, high, wide = (
            masks.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "height", "width")
        )
        return cls(size, counts, np.stack([x, y, x + wide, y + high], axis=1).astype(np.float64))

    @classmethod
    def of_rles(cls, rles: Sequence[bytes], size: tuple[int, int]) -> Shapes:
        """Those of COCO compressed RLEs of the whole image."""
        found = [{"size": list(size), "counts": counts} for counts in rles]
        boxes = np.asarray(coco.toBbox(found) if found else np.zeros((0, 4)), np.float64)
        boxes[:, 2:] += boxes[:, :2]
        return cls(size, rles, boxes)


@dataclass(frozen=True)
class Overlaps:
    """Pairs of masks that share a pixel: mask `first[k]` of one set, `second[k]` of the other, their IoU."""

    first: Ints
    second: Ints
    iou: Floats


def overlaps(one: Shapes, other: Shapes) -> Overlaps:
    """All pairs whose IoU is not 0, counted in pixels; only masks whose boxes meet are held together."""
    if not len(one) or not len(other):
        return Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    tree = shapely.STRtree(shapely.box(*other.boxes.T))
    first, second = tree.query(shapely.box(*one.boxes.T), predicate="intersects")
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    iou = np.zeros(len(first))
    for at in np.split(np.arange(len(first)), np.flatnonzero(np.diff(first)) + 1):
        if len(at):
            mine = [_rle(one, int(first[at[0]]))]
            iou[at] = coco.iou([_rle(other, int(n)) for n in second[at]], mine, [0])[:, 0]
    some = iou > 0
    return Overlaps(first[some], second[some], iou[some])


def match(found: Overlaps, least: float, rank: Sequence[Ints | Floats] = ()) -> list[tuple[int, int, float]]:
    """Pairs of an IoU of at least `least`, each mask in one at most: the greatest IoU first.

    Among equal ones those with the lower `rank` go first: its arrays count one after another.
    """
    keep = np.flatnonzero(found.iou >= least)
    keys = [found.second, found.first, *reversed([np.asarray(by) for by in rank]), -found.iou]
    order = keep[np.lexsort([key[keep] for key in keys])]
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    pairs = []
    for first, second, iou in zip(
        found.first[order].tolist(), found.second[order].tolist(), found.iou[order].tolist(), strict=True
    ):
        if first not in taken_first and second not in taken_second:
            taken_first.add(first)
            taken_second.add(second)
            pairs.append((first, second, iou))
    return pairs


def _rle(shapes: Shapes, at: int) -> dict[str, object]:
    return {"size": list(shapes.size), "counts": shapes.counts[at]}
