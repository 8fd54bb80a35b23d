"""A run's instances in the forms that labelling tools take: COCO json, Label Studio tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.export.labelstudio import POLYGON
from pipeline.tables import full_frame_rle, polygons

Row = Mapping[str, Any]


def coco_form(images: Sequence[Row], rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
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
        for row in rows[image["image_id"]]:
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


def label_studio_form(images: Sequence[Row], rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Label Studio tasks with polygons as predictions; of a mask with holes the outlines only.

    They are for the labelling interface that an export of the run has (`pipeline.export.labelstudio`).
    """
    return [
        {
            "data": {"image": image["uri"], "image_id": image["image_id"]},
            "predictions": [
                {
                    "model_version": "condinst",
                    "result": [part for row in rows[image["image_id"]] for part in _outlines(row, image)],
                }
            ],
        }
        for image in images
    ]


def _outlines(row: Row, image: Row) -> list[dict[str, Any]]:
    """A region for each connected part of a mask, in per cent of the image."""
    width, height = image["width"], image["height"]
    return [
        {
            "type": "polygonlabels",
            "from_name": POLYGON,
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "score": row["score"],
            "value": {
                "points": [[100 * x / width, 100 * y / height] for x, y in rings[0][:-1].tolist()],
                "polygonlabels": [row["category"]],
                "closed": True,
            },
        }
        for rings in polygons(row)
    ]
