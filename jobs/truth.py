"""The truth that predictions are measured against: a COCO json whose faults are told by name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from condinst.evaluate import load_truth
from jobs.errors import JobError
from pipeline.storage import NotFound, Store, StoreOptions


def read_truth(uri: str, options: StoreOptions, limit: int | None = None) -> COCO:
    """The COCO json that a path or URI names; `limit` keeps its first images.

    Annotations are numbered anew: pycocotools takes a match with number 0 for none. An `area` that is not
    there is measured. Raises JobError for a file that is no COCO truth, StoreError when it cannot be had.
    """
    data = _parse(uri, _fetch(uri, options))
    try:
        images = [_image(image) for image in data["images"][:limit]]
        names = Counter(str(category["name"]) for category in data["categories"])
        kept = {image["id"] for image in images}
        categories = {category["id"] for category in data["categories"]}
        annotations = [dict(a) for a in data["annotations"] if a["image_id"] in kept]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JobError(f"{uri}: no COCO truth ({type(error).__name__}: {error})") from None
    twice = [name for name, count in names.items() if count > 1]
    if not images or twice:
        raise JobError(f"{uri}: {f'has the category {twice[0]!r} twice' if twice else 'names no images'}")
    truth = load_truth({"images": images, "categories": data["categories"], "annotations": []})
    masks = any(a.get("segmentation") for a in annotations)
    for number, annotation in enumerate(annotations, start=1):
        _complete(uri, annotation, truth, categories, masks)
        annotation["id"] = number
    return load_truth({**truth.dataset, "annotations": annotations})


def has_masks(truth: COCO) -> bool:
    """Whether the truth has masks, and not boxes alone."""
    return any(a.get("segmentation") for a in truth.dataset["annotations"])


def most_in_an_image(truth: COCO) -> int:
    """Most instances of one category in one image."""
    counts = Counter((a["image_id"], a["category_id"]) for a in truth.dataset["annotations"])
    return max(counts.values(), default=0)


def _fetch(uri: str, options: StoreOptions) -> bytes:
    parent, _, name = uri.rpartition("/")
    store = Store.open(parent or ("/" if uri.startswith("/") else "."), options)
    try:
        return store.get(name)
    except NotFound:
        raise JobError(f"--truth: there is no {store.join(name)}") from None


def _parse(uri: str, data: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JobError(f"{uri}: not JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise JobError(f"{uri}: no COCO truth: it is not a mapping with images, categories and annotations")
    return parsed


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": image["id"],
        "file_name": str(image["file_name"]),
        "height": int(image["height"]),
        "width": int(image["width"]),
    }


def _complete(uri: str, annotation: dict[str, Any], truth: COCO, categories: set[Any], masks: bool) -> None:
    """Check one annotation, and add what COCO's programs expect of every one."""
    name = f"{uri}: annotation {annotation.get('id')}"
    if annotation.get("category_id") not in categories:
        raise JobError(
            f"{name}: its category_id {annotation.get('category_id')!r} is not among the categories"
        )
    if masks and not annotation.get("segmentation"):
        raise JobError(f"{name}: has no segmentation, while others do; leave it out, or give all boxes only")
    try:
        if masks:
            image = truth.imgs[annotation["image_id"]]
            annotation["segmentation"] = truth.annToRLE(annotation)
            if list(annotation["segmentation"]["size"]) != [image["height"], image["width"]]:
                raise ValueError(f"its mask is not of the image's size {image['height'], image['width']}")
            annotation.setdefault("bbox", coco_mask.toBbox(annotation["segmentation"]).tolist())
            annotation.setdefault("area", float(coco_mask.area(annotation["segmentation"])))
        _, _, width, height = (float(value) for value in annotation["bbox"])
        annotation.setdefault("area", width * height)
    except Exception as error:  # pycocotools raises many types for a shape that is none
        raise JobError(f"{name}: {type(error).__name__}: {error}") from None
    annotation.setdefault("iscrowd", 0)
