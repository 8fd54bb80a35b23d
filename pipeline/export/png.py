"""A run as PNG masks: for each image one of instance numbers and one of classes, a value a pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from condinst import rle
from pipeline.export.files import UNNAMEABLE, UNNAMED, Place, relative, whole_folder
from pipeline.export.selection import UNSIZED, Exported, Part, Selection, parts
from pipeline.tables import Run

LOSSES = (
    "a pixel holds one instance: where masks overlap, the surer one is on top",
    "scores, boxes and geometries are not in it",
)
PIXELS = 1 << 29
"""Largest image that is drawn: its frame is held in memory, three bytes a pixel."""
MOST = (1 << 16) - 1
_CLASSES = 255
_COLUMNS = ("instance_id", "category_id", "category", "mask")


def write_png(run: Run, selection: Selection, path: Place) -> Exported:
    """Write the folder `path`: `instances/<image_id>.png`, `classes/<image_id>.png`, `classes.txt`.

    Instances are 16 bits: 0 where there is none, else the table's `instance_id` + 1. Classes are 8 bits: 0,
    or the `category_id`. Each of two threads has one image in memory. Raises TargetError, StoreError.
    """
    done = Exported()
    with whole_folder(path) as folder:
        names: dict[int, str] = {}
        for name in ("instances", "classes"):
            (folder / name).mkdir()
        for part, found in parts(
            run, selection, lambda part: _draw(part, folder), images=_IMAGES, instances=_COLUMNS
        ):
            done.add(part)
            names |= found
        lines = [f"{number}\t{name}\n" for number, name in sorted(names.items())]
        (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")
    return done


_IMAGES = ("image_id", "status", "width", "height")


def _draw(part: Part, folder: Path) -> tuple[Exported, dict[int, str]]:
    """Draw a shard's images."""
    done = Exported()
    listed = part.images.to_pylist()
    for at, some in part.by_image():
        image = listed[at]
        rows = part.instances.slice(some.start, some.stop - some.start)
        if problem := _problem(image, rows):
            done.losses[problem] += 1
            continue
        frames, hidden = _frames(rows, image["height"], image["width"])
        if hidden:
            done.losses["pixels where masks overlap hold the surer one alone"] += hidden
        try:
            _save(frames, folder, relative(image["image_id"]))
        except OSError as error:
            if error.errno not in UNNAMEABLE:
                raise
            done.losses[UNNAMED] += 1
            continue
        done.images += 1
        done.instances += rows.num_rows
    return done, part.categories()


def _problem(image: dict[str, Any], rows: pa.Table) -> str | None:
    if image["width"] is None:
        return UNSIZED
    if image["width"] * image["height"] > PIXELS:
        return f"images of more than {PIXELS:,} pixels, left out: read their masks with pipeline.tables"
    if rows.num_rows and pc.max(rows["instance_id"]).as_py() >= MOST:
        return f"images with more than {MOST:,} instances, left out: 16 bits cannot number them"
    if rows.num_rows and pc.max(rows["category_id"]).as_py() > _CLASSES:
        return f"images with a class over number {_CLASSES}, left out: 8 bits cannot hold it"
    return None


def _frames(rows: pa.Table, height: int, width: int) -> tuple[dict[str, NDArray[Any]], int]:
    """Both pictures, and how many pixels of instances lie under others."""
    number = np.zeros((height, width), np.uint16)
    label = np.zeros((height, width), np.uint8)
    hidden = 0
    # By falling score in the table: the surest is drawn last, over the others.
    for row in reversed(rows.to_pylist()):
        mask = row["mask"]
        spot = np.s_[mask["y"] : mask["y"] + mask["height"], mask["x"] : mask["x"] + mask["width"]]
        pixels = rle.decode(mask["counts"], mask["height"], mask["width"])
        hidden += int(np.count_nonzero(number[spot][pixels]))
        number[spot][pixels] = row["instance_id"] + 1
        label[spot][pixels] = row["category_id"]
    return {"instances": number, "classes": label}, hidden


def _save(frames: dict[str, NDArray[Any]], folder: Path, name: str) -> None:
    for kind, pixels in frames.items():
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)
