"""A run's instances in the forms that labelling tools take: COCO json, Label Studio tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.export.labelstudio import task_of
from pipeline.tables import full_frame_rle

Row = Mapping[str, Any]


def coco_form(images: Sequence[Row], rows: Mapping[str, pa.Table]) -> dict[str, Any]:
    """COCO, with masks as RLE text; what comes back corrected is a source of a training as it is."""
    categories: dict[int, str] = {}
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        size = (image["height"], image["width"])
        listed.append(
            {
                "id": number,
                "file_name": image["image_id"],
                "height": size[0],
                "width": size[1],
                "coco_url": image["uri"],
            }
        )
        for row in rows[image["image_id"]].to_pylist():
            categories[row["category_id"] + 1] = row["category"]
            box, mask = row["bbox"], full_frame_rle(row, *size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": row["category_id"] + 1,
                    "bbox": [box["x"], box["y"], box["width"], box["height"]],
                    "area": row["area"],
                    "iscrowd": 0,
                    "segmentation": {"size": list(size), "counts": mask["counts"].decode()},
                    "score": row["score"],
                }
            )
    named = [{"id": number, "name": name} for number, name in sorted(categories.items())]
    return {"images": listed, "categories": named, "annotations": annotations}


def label_studio_form(
    images: Sequence[Row], rows: Mapping[str, pa.Table], model: str
) -> list[dict[str, Any]]:
    """Label Studio tasks with the instances as predictions of `model`, as an export of the run has them.

    They are for the labelling interface of `pipeline.export.labelstudio`.
    """
    return [task_of(image, rows[image["image_id"]], model, image["uri"]) for image in images]
