"""Found instances held against true ones, image by image: what is taken for what, with examples."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco
from pycocotools.coco import COCO

from condinst import rle
from jobs.from_tables import images_in_both
from jobs.truth import has_masks
from pipeline.export.selection import Selection, parts
from pipeline.matching import Shapes, match, overlaps
from pipeline.tables import Run

NOTHING = "(nothing)"
"""The truth of an instance that is none, and what a missed one was found as."""
EXAMPLES = 3
"""Of each pair of classes, the largest."""
MOST_EXAMPLES = 36
_COLUMNS = ("instance_id", "category", "score", "area", "bbox", "mask")
Cell = tuple[str, str]
"""A class of the truth, and what it was found as."""


@dataclass(frozen=True)
class Example:
    """One instance of a cell: the truth's annotation and the row that was found, None where there is none."""

    image: Mapping[str, Any]
    true: Mapping[str, Any] | None
    found: Mapping[str, Any] | None


@dataclass
class Confusion:
    """Counts by truth and finding, and the largest examples of what is wrong."""

    cells: Counter[Cell] = field(default_factory=Counter)
    images: int = 0
    """Compared: those of the truth that the run has read."""
    there: int = 0
    """Those of the truth that the run has, whatever became of them."""
    _examples: dict[Cell, list[tuple[int, int, Example]]] = field(default_factory=lambda: defaultdict(list))
    _order: Iterator[int] = field(default_factory=count)

    def add(self, cell: Cell, example: Example) -> None:
        """Count an instance in."""
        self.cells[cell] += 1
        if cell[0] == cell[1]:
            return
        heap = self._examples[cell]
        area = max(int(row["area"]) for row in (example.true, example.found) if row is not None)
        item = (area, -next(self._order), example)
        heapq.heappush(heap, item) if len(heap) < EXAMPLES else heapq.heappushpop(heap, item)

    def examples(self) -> list[tuple[Cell, Example]]:
        """Of the cells with most instances first, the largest of each first."""
        wrong = [cell for cell, _ in self.cells.most_common() if cell[0] != cell[1]]
        listed = [
            (cell, example) for cell in wrong for _, _, example in sorted(self._examples[cell], reverse=True)
        ]
        return listed[:MOST_EXAMPLES]

    def of_class(self, name: str) -> tuple[int, int, int]:
        """How many of a class are right, there, and found."""
        there = sum(number for (true, _), number in self.cells.items() if true == name)
        found = sum(number for (_, as_), number in self.cells.items() if as_ == name)
        return self.cells[name, name], there, found


def count_confusion(
    run: Run, truth: COCO, min_score: float, iou: float, renames: Mapping[str, str]
) -> Confusion:
    """Match the run's instances of `min_score` or more with the truth's, and count them by both classes.

    Of one image, by the IoU of their masks (of their boxes where the truth has no masks), from `iou` on,
    whatever their class; `renames` says what a class counts as. Crowd regions match, and count nowhere.
    Raises JobError where the run and the truth share no image.
    """
    images = images_in_both(run, truth)
    masks = has_masks(truth)
    counted = Confusion(there=len(images))
    selection = Selection(min_score=min_score)
    for part in parts(run, selection, lambda part: part, instances=_COLUMNS):
        listed = part.images.to_pylist()
        for at, some in part.by_image():
            image = images.get(listed[at]["image_id"])
            if image is not None:
                rows = part.instances.slice(some.start, some.stop - some.start)
                here = {**listed[at], "height": image["height"], "width": image["width"]}
                annotations = [truth.anns[n] for n in truth.getAnnIds(imgIds=[image["id"]])]
                _count_image(counted, here, annotations, rows, truth, renames, masks, iou)
    _count_unseen(counted, run, truth, images)
    return counted


def _count_image(
    counted: Confusion,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    rows: pa.Table,
    truth: COCO,
    renames: Mapping[str, str],
    masks: bool,
    iou: float,
) -> None:
    size = (image["height"], image["width"])
    true = _true_shapes(annotations, size, masks)
    shapes = Shapes.of_rows(rows, size) if masks else _box_shapes(rows["bbox"].to_pylist(), size)
    pairs = match(overlaps(true, shapes), iou)
    found = rows.to_pylist()
    named = [truth.cats[a["category_id"]]["name"] for a in annotations]
    as_found = [renames.get(row["category"], row["category"]) for row in found]
    counted.images += 1
    for t, f, _ in pairs:
        if not annotations[t].get("iscrowd"):
            counted.add((named[t], as_found[f]), Example(image, annotations[t], found[f]))
    seen_true, seen_found = {t for t, _, _ in pairs}, {f for _, f, _ in pairs}
    for t, annotation in enumerate(annotations):
        if t not in seen_true and not annotation.get("iscrowd"):
            counted.add((named[t], NOTHING), Example(image, annotations[t], None))
    for f, row in enumerate(found):
        if f not in seen_found:
            counted.add((NOTHING, as_found[f]), Example(image, None, row))


def _count_unseen(counted: Confusion, run: Run, truth: COCO, images: Mapping[str, Mapping[str, Any]]) -> None:
    """The truth's instances on images that the run has not, or could not decode, are missed too."""
    sized = {
        row["image_id"]
        for row in run.images(["image_id", "status"]).to_pylist()
        if row["status"] in Selection().statuses
    }
    seen = {image["id"] for image_id, image in images.items() if image_id in sized}
    for annotation in truth.dataset["annotations"]:
        if annotation["image_id"] not in seen and not annotation.get("iscrowd"):
            image = truth.imgs[annotation["image_id"]]
            size = (image["height"], image["width"])
            here = {"image_id": image["file_name"], "uri": None, "height": size[0], "width": size[1]}
            name = truth.cats[annotation["category_id"]]["name"]
            counted.add((name, NOTHING), Example(here, annotation, None))


def _true_shapes(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], masks: bool) -> Shapes:
    if masks:
        return Shapes.of_rles([_counts(a["segmentation"]) for a in annotations], size)
    names = ("x", "y", "width", "height")
    return _box_shapes([dict(zip(names, a["bbox"], strict=True)) for a in annotations], size)


def _counts(rle: Mapping[str, Any]) -> bytes:
    counts = rle["counts"]
    return counts.encode() if isinstance(counts, str) else bytes(counts)


def _box_shapes(boxes: Sequence[Mapping[str, float]], size: tuple[int, int]) -> Shapes:
    """Filled boxes."""
    sides = np.array([[b["x"], b["y"], b["width"], b["height"]] for b in boxes], np.float64).reshape(-1, 4)
    rles = coco.frPyObjects(sides, *size) if len(sides) else []
    return Shapes.of_rles([rle["counts"] for rle in rles], size)


def outline(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A true instance in the form of a row: its mask as a tight crop, its area."""
    boxed = np.array([annotation["bbox"]], float)
    whole = annotation.get("segmentation") or coco.frPyObjects(boxed, *size)[0]
    pixels = coco.decode(whole).astype(bool)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    top, left = (int(side[0]) if len(side) else 0 for side in (rows, columns))
    crop = pixels[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1] if len(rows) else pixels[:1, :1]
    height, width = crop.shape
    mask = {"x": left, "y": top, "height": height, "width": width, "counts": rle.encode(crop)}
    return {"mask": mask, "area": int(crop.sum())}
