"""`condinst import`: Label Studio's JSON as a COCO truth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from rich.console import Console
from rich.markup import escape

from condinst import rle
from jobs.errors import JobError, one_line
from pipeline.export.brush import BrushError, decode_brush
from pipeline.export.files import TargetError, whole_file
from pipeline.export.labelstudio import IMAGE_ID
from pipeline.nouns import many

_LABELS = {
    "polygonlabels": "polygonlabels",
    "brushlabels": "brushlabels",
    "rectanglelabels": "rectanglelabels",
}
_SNAP = 1e-4
"""Pixels within which a corner is taken to lie on a pixel's corner: percentages are rounded."""
_MOST_PIXELS = 1 << 29


class _Unusable(ValueError):
    """A region or task that cannot be part of a truth; says why in words that are counted."""


@dataclass
class _Truth:
    """The COCO set as far as it is built."""

    categories: dict[str, int] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    """Tasks without a region: somebody said that there is nothing."""

    def add(self, task: Mapping[str, Any], predictions: bool) -> None:
        """Take in a task with its regions."""
        data = task["data"]
        regions = _regions(task, predictions)
        height, width = _size(data, regions)
        number, name = len(self.images) + 1, _file_name(data)
        self.empty += not regions
        self.images.append({"id": number, "file_name": name, "height": height, "width": width})
        for region in regions:
            try:
                annotation = _annotation(region, height, width)
            except _Unusable as reason:
                self.left_out[f"regions left out: {reason}"] += 1
                continue
            category = self.categories.setdefault(annotation.pop("name"), len(self.categories) + 1)
            own = {"id": len(self.annotations) + 1, "image_id": number, "category_id": category}
            self.annotations.append({**own, **annotation, "iscrowd": 0})


def import_labels(labels: str, to: Path, predictions: bool = False, console: Console | None = None) -> None:
    """Write the COCO json `to` from Label Studio's export and say what could not be taken.

    Of a task that several people did the latest annotation counts. Raises JobError for a file that is no such
    export or has no label that can be used, and no task that somebody left without one.
    """
    console = console or Console()
    truth = _Truth()
    for task in _tasks(labels):
        try:
            truth.add(task, predictions)
        except _Unusable as reason:
            truth.left_out[f"tasks left out: {reason}"] += 1
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            truth.left_out[f"tasks left out: not Label Studio's form ({type(error).__name__}: {error})"] += 1
    if not truth.annotations and not truth.empty:
        said = "".join(f"\n  {number} {what}" for what, number in sorted(truth.left_out.items()))
        raise JobError(f"{labels}: no label that a COCO truth can hold{said}")
    categories = [{"id": number, "name": name} for name, number in truth.categories.items()]
    found = {"images": truth.images, "annotations": truth.annotations, "categories": categories}
    try:
        with whole_file(to) as temporary:
            temporary.write_text(json.dumps(found))
    except TargetError as error:
        raise JobError(str(error)) from None
    counts = f"{many(len(truth.annotations), 'instance')} on {many(len(truth.images), 'image')} in {to}"
    console.print(escape(counts), highlight=False, soft_wrap=True)
    for what, number in sorted(truth.left_out.items()):
        console.print(escape(one_line(f"{number:,} {what}")), style="yellow", highlight=False, soft_wrap=True)


def _tasks(path: str) -> list[Any]:
    try:
        tasks = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: not JSON ({error})") from None
    if not isinstance(tasks, list):
        raise JobError(f"{path}: not Label Studio's JSON export, which is a list of tasks; choose JSON there")
    return tasks


def _regions(task: Mapping[str, Any], predictions: bool) -> list[Mapping[str, Any]]:
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if done:
        # Times are ISO 8601: their order is that of their text.
        chosen = max(enumerate(done), key=lambda item: (str(item[1].get("updated_at") or ""), item[0]))[1]
    elif predictions and task.get("predictions"):
        chosen = task["predictions"][-1]
    else:
        raise _Unusable("nobody annotated them (--predictions takes the model's own)")
    return list(chosen["result"])


def _file_name(data: Mapping[str, Any]) -> str:
    """The table's image_id where our export put it; else the last part of the image's address."""
    if data.get(IMAGE_ID):
        return str(data[IMAGE_ID])
    parts = urlsplit(str(data["image"]))
    local = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return PurePosixPath(local).name


def _size(data: Mapping[str, Any], regions: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The image's height and width, as its regions or our export say."""
    sized = [r for r in regions if "original_width" in r]
    if sized:
        width, height = int(sized[0]["original_width"]), int(sized[0]["original_height"])
    elif "width" in data and "height" in data:
        width, height = int(data["width"]), int(data["height"])
    else:
        raise _Unusable("without a region nothing says how large the image is")
    if not (width > 0 and height > 0 and width * height <= _MOST_PIXELS):
        raise _Unusable(f"images of {width}x{height} pixels")
    return height, width


def _annotation(region: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    kind, value = str(region.get("type")), region.get("value") or {}
    names = value.get(_LABELS.get(kind, ""))
    if kind not in _LABELS:
        raise _Unusable(f"of type {one_line(kind)[:40]}")
    if not names:
        raise _Unusable("without a label")
    if region.get("image_rotation") or value.get("rotation"):
        raise _Unusable("turned ones")
    if kind == "rectanglelabels":
        return {"name": str(names[0]), **_box(value, height, width)}
    if kind == "brushlabels":
        try:
            x, y, pixels = 0, 0, decode_brush(value.get("rle") or [], height, width)
        except BrushError as error:
            raise _Unusable(f"damaged brush masks ({error})") from None
    else:
        x, y, pixels = _drawn(value, height, width)
    return {"name": str(names[0]), **_masked(x, y, pixels, height, width)}


def _box(value: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    x, y, w, h = (float(value[name]) / 100 for name in ("x", "y", "width", "height"))
    box = [x * width, y * height, w * width, h * height]
    return {"bbox": box, "area": box[2] * box[3]}


def _drawn(value: Mapping[str, Any], height: int, width: int) -> tuple[int, int, NDArray[np.bool_]]:
    """A polygon as the pixels whose centres lie in it: the corner and the pixels of its crop."""
    corners = np.asarray(value.get("points"), dtype=float)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise _Unusable("polygons of fewer than three corners")
    corners = corners * (width, height) / 100
    corners = np.where(np.abs(corners - corners.round()) < _SNAP, corners.round(), corners)
    low = np.clip(np.floor(corners.min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), low + 1, (width, height)).astype(int)
    shape = shapely.polygons(corners - low)
    drawn = rasterize([shape], out_shape=(int(high[1] - low[1]), int(high[0] - low[0])), dtype="uint8")
    return int(low[0]), int(low[1]), drawn.astype(bool)


def _masked(x: int, y: int, pixels: NDArray[np.bool_], height: int, width: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        raise _Unusable("without a pixel in the image")
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    left, top = x + int(columns[0]), y + int(rows[0])
    counts = rle.embed(rle.encode(pixels), left, top, pixels.shape[0], pixels.shape[1], height, width)
    return {
        "segmentation": {"size": [height, width], "counts": counts.decode()},
        "bbox": [left, top, pixels.shape[1], pixels.shape[0]],
        "area": int(pixels.sum()),
    }
