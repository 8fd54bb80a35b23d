"""COCO annotations as training truth: crops' RLE, image by image, found without a full-frame mask."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from condinst import rle
from condinst.augment import StoredMask

MOST_PIXELS = 2**31
"""Of an image: COCO's run lengths are numbers of 32 bits."""
_FAR = 16
"""How far from the frame's corner a coordinate may lie, in frames: pycocotools draws outlines there, too."""
_FARTHEST = 2e8
"""And how far in pixels: pycocotools counts fifths of one in 32 bits."""
_LONGEST = 10_000_000
"""Pixels of the outline of one annotation's polygons; pycocotools keeps 40 bytes of each."""
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What values raise that are not of their place's type or range."""


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
    version: str | None = None
    """Etag of the file that the instances are of, where it is known."""


def read_truth(coco: Mapping[str, Any]) -> tuple[tuple[str, ...], list[ImageTruth]]:
    """Category names in order of id, and the images of a COCO dictionary; a class is its name's index.

    Left out are crowd regions, instances without a pixel inside their image and, as pycocotools does,
    annotations of images that are not listed (`unlisted` counts them). Raises TruthError, also where that is
    all of them.
    """
    try:
        categories = sorted(coco["categories"], key=lambda c: int(c["id"]))
        index = {int(c["id"]): n for n, c in enumerate(categories)}
        names = tuple(str(c["name"]) for c in categories)
        by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in coco["annotations"]:
            if not annotation.get("iscrowd"):
                by_image[int(annotation["image_id"])].append(annotation)
        check_images(coco)
        images = [_image(image, by_image[int(image["id"])], index) for image in coco["images"]]
    except TruthError:
        raise
    except BROKEN as error:
        raise TruthError(f"not COCO annotations: {type(error).__name__} {error}") from None
    return names, images


def check_images(coco: Mapping[str, Any]) -> None:
    """Raise TruthError for images that repeat an id or have no size, and where no annotation is of any.

    And, of values that are none of their place's, what they raise.
    """
    ids = Counter(int(image["id"]) for image in coco["images"])
    if twice := [number for number, count in ids.items() if count > 1]:
        raise TruthError(f"two images have the id {twice[0]}: whose the annotations are is not known")
    for image in coco["images"]:
        height, width = int(image["height"]), int(image["width"])
        if height < 1 or width < 1 or height * width > MOST_PIXELS:
            raise TruthError(
                f"image {image['id']} ({image['file_name']}): {height}x{width} is no image's size"
            )
    if ids and coco["annotations"] and unlisted(coco) == len(coco["annotations"]):
        raise TruthError(
            f"all {len(coco['annotations'])} annotations are of images that are not listed: the first has "
            f"the image_id {coco['annotations'][0]['image_id']}"
        )


def unlisted(coco: Mapping[str, Any]) -> int:
    """How many annotations are of images that are not listed."""
    ids = {int(image["id"]) for image in coco["images"]}
    return sum(int(annotation["image_id"]) not in ids for annotation in coco["annotations"])


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
    name = f"annotation {annotation.get('id')}"
    try:
        category = index.get(int(annotation["category_id"]))
    except BROKEN:
        raise TruthError(f"{name}: bad category_id {annotation.get('category_id')!r}") from None
    if category is None:
        raise TruthError(f"{name}: category {annotation['category_id']} is not listed")
    segmentation = annotation.get("segmentation")
    try:
        if not segmentation:
            return _box(annotation, height, width, category)
        return _cut(encoded(segmentation, height, width), height, width, category)
    except BROKEN as error:
        what = "segmentation" if segmentation else "bbox"
        raise TruthError(f"{name}: bad {what} ({type(error).__name__}: {error})") from None


def encoded(segmentation: Any, height: int, width: int) -> bytes:
    """The compressed RLE of a frame of (height, width) that polygons, run lengths or an RLE say.

    Nothing is handed to pycocotools unlooked at: of numbers that are none, far away or negative its C code
    takes the process down. Raises ValueError, TypeError, KeyError, OverflowError for what is none.
    """
    if isinstance(segmentation, list):
        return _drawn(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}, not the image's size {[height, width]}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode()
    lengths = rle.runs(counts) if isinstance(counts, bytes) else _lengths(counts)
    if not len(lengths):
        lengths = np.array([height * width])
    if lengths.max() > height * width or lengths.sum() != height * width:
        raise ValueError(f"its runs are not those of {height}x{width} pixels")
    # Written anew: of a number of too many digits pycocotools would read another than was checked here.
    return rle.from_runs(lengths)


def _drawn(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """The pixels inside polygons; those of fewer than three corners have none."""
    numbers = [[float(value) for value in polygon] for polygon in polygons]
    drawn = [polygon for polygon in numbers if len(polygon) >= 6]
    reach = min(_FAR * max(height, width), _FARTHEST)
    for polygon in drawn:
        if len(polygon) % 2:
            raise ValueError(f"a polygon has {len(polygon)} numbers: x, y, x, y, ...")
        if not all(math.isfinite(value) and abs(value) <= reach for value in polygon):
            raise ValueError(
                f"a polygon leaves the image of {width}x{height} by more than {_FAR} times its size"
            )
    if sum(map(_length, drawn)) > _LONGEST:
        raise ValueError(f"its outline is longer than {_LONGEST:,} pixels")
    if not drawn:
        return rle.from_runs(np.array([height * width]))
    counts: bytes = coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))["counts"]
    return counts


def _length(polygon: Sequence[float]) -> float:
    corners = np.array(polygon).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _lengths(counts: Sequence[Any]) -> NDArray[np.int64]:
    """Run lengths as they stand in a json."""
    if any(isinstance(c, bool) or c != int(c) or not 0 <= c <= MOST_PIXELS for c in counts):
        raise ValueError("a run's length is no number of pixels")
    return np.array([int(c) for c in counts], np.int64)


def _cut(counts: bytes, height: int, width: int, category: int) -> StoredMask | None:
    """The tight crop of a full frame's mask; None of an empty one."""
    if not rle.area(counts):
        return None
    box = coco_mask.toBbox({"size": [height, width], "counts": counts})
    x, y, w, h = (int(v) for v in box)
    return StoredMask(x, y, h, w, rle.cut(counts, height, width, x, y, h, w), category)


def _box(annotation: Mapping[str, Any], height: int, width: int, category: int) -> StoredMask | None:
    x, y, w, h = box_of(annotation)
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(width, round(x + w)), min(height, round(y + h))
    if right <= left or bottom <= top:
        return None
    return StoredMask(left, top, bottom - top, right - left, b"", category).filled()


def box_of(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """An annotation's `bbox`: left, top, width, height in pixels. Raises KeyError, TypeError, ValueError."""
    x, y, width, height = (float(value) for value in annotation["bbox"])
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"{annotation['bbox']} is no box")
    return x, y, width, height
