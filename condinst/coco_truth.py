"""COCO annotations as training truth: crops' RLE, image by image, found without a full-frame mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from condinst import rle
from condinst.augment import StoredMask


class TruthError(ValueError):
    """Annotations that cannot be used; the message names the annotation or image and what is wrong."""


@dataclass(frozen=True)
class ImageTruth:
    """One image of a COCO set."""

    file_name: str
    height: int
    width: int
    instances: tuple[StoredMask, ...]
    boxes_only: bool
    """Whether an instance had no segmentation: its mask is then its filled box."""


def read_truth(coco: Mapping[str, Any]) -> tuple[tuple[str, ...], list[ImageTruth]]:
    """Category names in order of id, and the images of a COCO dictionary; a class is its name's index.

    Crowd regions, and instances without a pixel inside their image, are left out. Raises TruthError.
    """
    try:
        categories = sorted(coco["categories"], key=lambda c: int(c["id"]))
        index = {int(c["id"]): n for n, c in enumerate(categories)}
        names = tuple(str(c["name"]) for c in categories)
        by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in coco["annotations"]:
            if not annotation.get("iscrowd"):
                by_image[int(annotation["image_id"])].append(annotation)
        images = [_image(image, by_image[int(image["id"])], index) for image in coco["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise TruthError(f"not COCO annotations: {type(error).__name__} {error}") from None
    return names, images


def _image(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], index: Mapping[int, int]
) -> ImageTruth:
    height, width = int(image["height"]), int(image["width"])
    found = [instance_of(a, height, width, index) for a in annotations]
    return ImageTruth(
        str(image["file_name"]),
        height,
        width,
        tuple(m for m in found if m is not None),
        any(not a.get("segmentation") for a in annotations),
    )


def instance_of(
    annotation: Mapping[str, Any], height: int, width: int, index: Mapping[int, int]
) -> StoredMask | None:
    """One annotation (polygons, RLE or only a box) as a stored mask; None if no pixel lies in the image.

    `index` gives the class of a category id. Raises TruthError.
    """
    category = index.get(int(annotation["category_id"]))
    if category is None:
        raise TruthError(
            f"annotation {annotation.get('id')}: category {annotation['category_id']} is not listed"
        )
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return _box(annotation, height, width, category)
    try:
        return _cut(_encoded(segmentation, height, width), height, width, category)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise TruthError(f"annotation {annotation.get('id')}: bad segmentation ({error})") from None


def _encoded(segmentation: Any, height: int, width: int) -> bytes:
    """The full frame's compressed RLE."""
    if isinstance(segmentation, list):
        polygons = [p for p in segmentation if len(p) >= 6]
        if not polygons:
            return rle.from_runs(np.array([height * width]))
        coded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        coded = coco_mask.frPyObjects(segmentation, height, width)
    else:
        coded = segmentation
    if list(coded["size"]) != [height, width]:
        raise ValueError(f"its size is {coded['size']}, the image's {[height, width]}")
    counts = coded["counts"]
    return counts.encode() if isinstance(counts, str) else bytes(counts)


def _cut(counts: bytes, height: int, width: int, category: int) -> StoredMask | None:
    """The tight crop of a full frame's mask; None of an empty one."""
    if not rle.area(counts):
        return None
    box = coco_mask.toBbox({"size": [height, width], "counts": counts})
    x, y, w, h = (int(v) for v in box)
    return StoredMask(x, y, h, w, rle.cut(counts, height, width, x, y, h, w), category)


def _box(annotation: Mapping[str, Any], height: int, width: int, category: int) -> StoredMask | None:
    x, y, w, h = (float(v) for v in annotation["bbox"])
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right <= left or bottom <= top:
        return None
    return StoredMask(left, top, bottom - top, right - left, b"", category).filled()
