"""Rows of a run in the forms that drawing and measuring take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools.coco import COCO

from condinst import Instances
from condinst.instances import RleMasks
from jobs.categories import Categories
from jobs.errors import JobError
from pipeline.nouns import many
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


def coco_results(run: Run, truth: COCO, categories: Categories | None = None) -> Iterator[dict[str, Any]]:
    """A run's instances as COCO results on the images of `truth`; those on other images are left out.

    `categories` says what a class counts as; by default the truth's category of that name. Raises JobError
    for a class that the truth does not have, and as `images_in_both` does.
    """
    categories = categories or Categories(truth)
    found = images_in_both(run, truth)
    for batch in run.batches("instances", COLUMNS):
        for row in batch.to_pylist():
            if (image := found.get(row["image_id"])) is not None:
                yield _result(row, image, categories.id_of(row["category"]))


def images_in_both(run: Run, truth: COCO) -> dict[str, dict[str, Any]]:
    """The truth's images that the run has, by the run's `image_id`.

    An image is the one whose `file_name` is the `image_id`, or else the only one of that base name. Raises
    JobError when there is none, when two of the run's would be one of the truth's, and for other sizes.
    """
    rows = run.images(["image_id", "width", "height"]).to_pylist()
    names = [row["image_id"] for row in rows]
    by_name = {image["file_name"]: image for image in truth.dataset["images"]}
    found = {name: by_name[name] for name in names if name in by_name}
    found |= _by_base_name(run, truth, [name for name in names if name not in found], found)
    if not found:
        example = next(iter(by_name), "none")
        raise JobError(
            f"{run.store.uri} and the truth share no image: the truth has for example {example!r}; "
            "its `file_name` must be the run's `image_id`, or end in the same base name"
        )
    for row in rows:
        if row["image_id"] in found:
            _check_size(row, found[row["image_id"]])
    return found


def lacking(there: int, truth: COCO) -> list[str]:
    """A note where a run has fewer images than the truth: as many as are `there`."""
    wanted = len(truth.dataset["images"])
    said = f"the run has {there:,} of the truth's {many(wanted, 'image')}; in the others nothing is found"
    return [said] if there < wanted else []


def _by_base_name(
    run: Run, truth: COCO, names: Sequence[str], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The truth's images that only share their base name, which no other of the truth has, with a run's."""
    exact = {image["id"] for image in found.values()}
    listed = truth.dataset["images"]
    counts = Counter(_base(image["file_name"]) for image in listed)
    by_base = {_base(i["file_name"]): i for i in listed if counts[_base(i["file_name"])] == 1}
    more: dict[str, dict[str, Any]] = {}
    taken: dict[int, str] = {}
    for name in names:
        image = by_base.get(_base(name))
        if image is None or image["id"] in exact:
            continue
        if image["id"] in taken:
            raise JobError(
                f"{taken[image['id']]!r} and {name!r} of {run.store.uri} would both be the truth's "
                f"{image['file_name']!r}: its `file_name` must be the run's `image_id`"
            )
        taken[image["id"]] = name
        more[name] = image
    return more


def _check_size(row: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    size = row["width"], row["height"]
    if None not in size and size != (image["width"], image["height"]):
        raise JobError(
            f"{row['image_id']!r} is {size[0]}x{size[1]}, but the truth's {image['file_name']!r} is "
            f"{image['width']}x{image['height']}: its annotations are of another image"
        )


def _result(row: Mapping[str, Any], image: Mapping[str, Any], category: int) -> dict[str, Any]:
    box = row["bbox"]
    return {
        "image_id": image["id"],
        "category_id": category,
        "score": row["score"],
        "bbox": [box["x"], box["y"], box["width"], box["height"]],
        "segmentation": full_frame_rle(row, image["height"], image["width"]),
    }


def _base(name: str) -> str:
    return PurePosixPath(name).name
