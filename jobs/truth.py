"""The truth that predictions are measured against: a COCO json whose faults are told by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from condinst.coco_truth import BROKEN, TruthError, box_of, check_images, encoded
from condinst.evaluate import load_truth
from jobs.errors import JobError
from pipeline.storage import NotFound, Store, StoreOptions


def read_truth(uri: str, options: StoreOptions, limit: int | None = None, *, called: str = "--truth") -> COCO:
    """The COCO json that a path or URI names; `limit` keeps its first images.

    `called` is what the user named it by, a flag or a key, for the message where it is not there.

    Annotations are numbered anew: pycocotools takes a match with number 0 for none. An `area` that is not
    there is measured. Annotations of images that are not listed are left out, as pycocotools does. Raises
    JobError for a file that is no COCO truth, StoreError when it cannot be had.
    """
    data = _parse(uri, _fetch(uri, options, called))
    try:
        check_images(data)
        images = [_image(image) for image in data["images"][:limit]]
        listed = [{**c, "id": int(c["id"]), "name": str(c["name"])} for c in data["categories"]]
        names = Counter(category["name"] for category in listed)
        kept = {image["id"] for image in images}
        categories = {category["id"] for category in listed}
        numbered = ({**a, "image_id": int(a["image_id"])} for a in data["annotations"])
        annotations = [a for a in numbered if a["image_id"] in kept]
    except TruthError as error:
        raise JobError(f"{uri}: {error}") from None
    except BROKEN as error:
        raise JobError(f"{uri}: no COCO truth ({type(error).__name__}: {error})") from None
    twice = [name for name, count in names.items() if count > 1]
    if not images or twice:
        raise JobError(f"{uri}: {f'has the category {twice[0]!r} twice' if twice else 'names no images'}")
    truth = load_truth({"images": images, "categories": listed, "annotations": []})
    masks = any(a.get("segmentation") for a in annotations)
    for number, annotation in enumerate(annotations, start=1):
        _complete(uri, annotation, truth, categories, masks)
        annotation["id"] = number
    return load_truth({**truth.dataset, "annotations": annotations})


def on_images(truth: COCO, ids: Collection[int]) -> COCO:
    """The truth of some of its images alone."""
    data = truth.dataset
    images = [image for image in data["images"] if image["id"] in ids]
    annotations = [annotation for annotation in data["annotations"] if annotation["image_id"] in ids]
    return load_truth({**data, "images": images, "annotations": annotations})


def has_masks(truth: COCO) -> bool:
    """Whether the truth has masks, and not boxes alone."""
    return any(a.get("segmentation") for a in truth.dataset["annotations"])


def most_in_an_image(truth: COCO) -> int:
    """Most instances of one category in one image."""
    counts = Counter((a["image_id"], a["category_id"]) for a in truth.dataset["annotations"])
    return max(counts.values(), default=0)


def _fetch(uri: str, options: StoreOptions, called: str) -> bytes:
    parent, _, name = uri.rpartition("/")
    store = Store.open(parent or ("/" if uri.startswith("/") else "."), options)
    try:
        return store.get(name)
    except NotFound:
        raise JobError(f"{called}: there is no {store.join(name)}") from None


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
        "id": int(image["id"]),
        "file_name": str(image["file_name"]),
        "height": int(image["height"]),
        "width": int(image["width"]),
    }


def _complete(uri: str, annotation: dict[str, Any], truth: COCO, categories: set[Any], masks: bool) -> None:
    """Check one annotation, and add what COCO's programs expect of every one."""
    name = f"{uri}: annotation {annotation.get('id')}"
    number: int | None
    try:
        number = int(annotation["category_id"])
    except BROKEN:
        number = None
    if number not in categories:
        raise JobError(
            f"{name}: its category_id {annotation.get('category_id')!r} is not among the categories"
        )
    if masks and not annotation.get("segmentation"):
        raise JobError(f"{name}: has no segmentation, while others do; leave it out, or give all boxes only")
    annotation["category_id"] = number
    try:
        if masks:
            image = truth.imgs[annotation["image_id"]]
            size = [image["height"], image["width"]]
            counts = encoded(annotation["segmentation"], *size)
            annotation["segmentation"] = {"size": size, "counts": counts}
            annotation.setdefault("bbox", coco_mask.toBbox(annotation["segmentation"]).tolist())
            annotation.setdefault("area", float(coco_mask.area(annotation["segmentation"])))
        annotation["bbox"] = list(box_of(annotation))
        annotation["area"] = float(annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]))
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        if not math.isfinite(annotation["area"]):
            raise ValueError(f"its area is {annotation['area']}")
    except BROKEN as error:
        raise JobError(f"{name}: {type(error).__name__}: {error}") from None
