"""Rows of a run in the forms that drawing and measuring take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools.coco import COCO

from condinst import Instances
from condinst.masks import RleMasks
from jobs.errors import JobError
from pipeline.tables import Run, full_frame_rle

COLUMNS = ("image_id", "category", "score", "bbox", "mask")


def instances_of(rows: pa.Table, classes: Sequence[str]) -> Instances:
    """The rows of one image, as the model gave them; `classes` gives each category its index."""
    listed = rows.to_pylist()
    boxes = np.array([_corners(row["bbox"]) for row in listed], np.float32).reshape(-1, 4)
    masks = [row["mask"] for row in listed]
    x, y, height, width = (
        np.array([m[name] for m in masks], np.int32) for name in ("x", "y", "height", "width")
    )
    areas = np.array([row["area"] for row in listed], np.int64)
    return Instances(
        boxes,
        np.array([row["score"] for row in listed], np.float32),
        np.array([classes.index(row["category"]) for row in listed], np.int64),
        RleMasks(x, y, height, width, areas, [m["counts"] for m in masks]),
    )


def _corners(box: Mapping[str, float]) -> tuple[float, float, float, float]:
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def coco_results(run: Run, truth: COCO) -> Iterator[dict[str, Any]]:
    """A run's instances as COCO results on the images of `truth`; those on other images are left out.

    An image is the one whose `file_name` is the `image_id`, or else the only one of that base name. Raises
    JobError for a category that the truth does not have, or when no image is in both.
    """
    images = _images_by_name(truth)
    categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    found = {i: image for i in _ids(run) if (image := images.get(i) or images.get(_base(i)))}
    if not found:
        example = next(iter(images), "none")
        raise JobError(
            f"{run.store.uri} and the truth share no image: the truth has for example {example!r}; "
            "its `file_name` must be the run's `image_id`, or end in the same base name"
        )
    for batch in run.batches("instances", COLUMNS):
        for row in batch.to_pylist():
            if (image := found.get(row["image_id"])) is not None:
                yield _result(row, image, categories)


def _result(
    row: Mapping[str, Any], image: Mapping[str, Any], categories: Mapping[str, int]
) -> dict[str, Any]:
    if row["category"] not in categories:
        raise JobError(
            f"the run has instances of {row['category']!r}, which the truth does not know; "
            f"it knows {', '.join(map(repr, categories))}"
        )
    box = row["bbox"]
    return {
        "image_id": image["id"],
        "category_id": categories[row["category"]],
        "score": row["score"],
        "bbox": [box["x"], box["y"], box["width"], box["height"]],
        "segmentation": full_frame_rle(row, image["height"], image["width"]),
    }


def _ids(run: Run) -> list[str]:
    ids: list[str] = run.images(["image_id"])["image_id"].to_pylist()
    return ids


def _images_by_name(truth: COCO) -> dict[str, dict[str, Any]]:
    """Images of the truth by file name, and by base name where only one has it."""
    listed = truth.dataset["images"]
    bases = [_base(image["file_name"]) for image in listed]
    unique = {b: image for b, image in zip(bases, listed, strict=True) if bases.count(b) == 1}
    return unique | {image["file_name"]: image for image in listed}


def _base(name: str) -> str:
    return PurePosixPath(name).name
