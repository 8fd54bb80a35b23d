"""A run as tasks of Label Studio with the instances as predictions, to be corrected by people.

An instance of one part without holes is a polygon, any other a brush mask: both hold its pixels exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import shapely

from condinst import rle
from pipeline.export.brush import MOST_PIXELS, encode_brush
from pipeline.export.files import Place, whole_stream
from pipeline.export.selection import UNSIZED, Exported, Part, Selection, parts
from pipeline.geo.polygons import pixel_polygons
from pipeline.rowmasks import rle_masks
from pipeline.tables import Run

LOSSES = (
    "areas, the model's boxes, `truncated` and geometries are not in it",
    "an instance in several parts, or with holes, is a brush mask: Label Studio's polygons have neither",
)
IMAGE_ID = "image_id"
"""The key of a task's data that holds the table's image_id, for the way back."""
POLYGON, BRUSH = "polygon", "brush"
"""Names of the interface's controls, which a task's regions refer to."""
TOO_LARGE = "instances with holes or parts on images too large for a brush mask: left out"
COLUMNS = ("instance_id", "category_id", "category", "score", "area", "mask")
"""Of `instances`, those that a task is made from."""
_DECIMALS = 10
"""Of a percentage: a hundredth of a pixel in an image of a hundred million."""


def write_labelstudio(run: Run, selection: Selection, path: Place, prefix: str | None = None) -> Exported:
    """Write the tasks as the file `path`, and beside it `<name>.xml`, the labelling interface they are for.

    `prefix` is where Label Studio finds the images: an image is at the prefix and its id; without one, at the
    table's `uri`. Raises TargetError, StoreError.
    """
    done = Exported()
    names: dict[int, str] = {}
    model = model_version(run)
    with whole_stream(path) as file:
        file.write(b"[")
        for part in parts(run, selection, lambda part: part, instances=COLUMNS):
            names |= part.categories()
            for task in _tasks(part, model, prefix, done):
                text = json.dumps(task, ensure_ascii=False, separators=(",", ":"))
                file.write(b",\n" if done.images > 1 else b"\n")
                file.write(text.encode())
        file.write(b"\n]\n")
    with whole_stream(path.with_suffix(".xml")) as file:
        file.write(interface([name for _, name in sorted(names.items())]).encode())
    return done


def interface(names: list[str]) -> str:
    """The labelling interface for these classes."""
    lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    for kind, control in (("PolygonLabels", POLYGON), ("BrushLabels", BRUSH)):
        lines.append(f'  <{kind} name="{control}" toName="image">')
        lines += [f"    <Label value={quoteattr(name)}/>" for name in names]
        lines.append(f"  </{kind}>")
    return "\n".join([*lines, "</View>", ""])


def model_version(run: Run) -> str:
    """What a task calls the model whose predictions it has."""
    return str(run.job.get("model_digest", ""))[:12]


def task_of(image: Mapping[str, Any], rows: pa.Table, model: str, place: str | None = None) -> dict[str, Any]:
    """The task of one image, which has `image_id`, `width` and `height`, with its instances as a prediction.

    `rows` are its instances, with `COLUMNS`; those that a task cannot hold (`TOO_LARGE`) are not in it.
    `place` is the image's address, its id without one. The size is in the data: of a task whose regions were
    all deleted nothing else says it.
    """
    prediction = {"model_version": model, "result": _regions(rows, image)}
    scores = rows["score"].to_pylist()
    prediction |= {"score": sum(scores) / len(scores)} if scores else {}
    own = {name: image[name] for name in (IMAGE_ID, "width", "height")}
    return {"data": {"image": place or image["image_id"], **own}, "predictions": [prediction]}


def regions_in(task: Mapping[str, Any]) -> int:
    """How many instances a task of `task_of` holds."""
    return len(task["predictions"][0]["result"])


def _tasks(part: Part, model: str, prefix: str | None, done: Exported) -> Iterator[dict[str, Any]]:
    listed = part.images.select(["image_id", "uri", "width", "height"]).to_pylist()
    for at, some in part.by_image():
        image = listed[at]
        if image["width"] is None:
            done.losses[UNSIZED] += 1
            continue
        rows = part.instances.slice(some.start, some.stop - some.start).combine_chunks()
        place = image["uri"] if prefix is None else prefix + quote(image["image_id"])
        task = task_of(image, rows, model, place)
        done.images += 1
        done.instances += regions_in(task)
        if lost := rows.num_rows - regions_in(task):
            done.losses[TOO_LARGE] += lost
        yield task


def _regions(rows: pa.Table, image: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not rows.num_rows:
        return []
    shapes = pixel_polygons(rle_masks(rows))
    regions = (_region(row, shape, image) for row, shape in zip(rows.to_pylist(), shapes, strict=True))
    return [region for region in regions if region is not None]


def _region(row: Mapping[str, Any], shape: Any, image: Mapping[str, Any]) -> dict[str, Any] | None:
    """One instance; None where it would be a brush mask, and the image is too large for one."""
    width, height = image["width"], image["height"]
    simple = shape.geom_type == "Polygon" and not len(shape.interiors)
    control = POLYGON if simple else BRUSH
    value: dict[str, Any] = {f"{control}labels": [row["category"]]}
    if simple:
        corners = shapely.get_coordinates(shape.exterior)[:-1] / (width, height) * 100
        value |= {"points": corners.round(_DECIMALS).tolist(), "closed": True}
    elif width * height > MOST_PIXELS:
        return None
    else:
        mask = row["mask"]
        pixels = rle.decode(mask["counts"], mask["height"], mask["width"])
        value |= {"format": "rle", "rle": encode_brush(pixels, mask["x"], mask["y"], height, width)}
    return {
        "id": f"i{row['instance_id']}",
        "type": f"{control}labels",
        "from_name": control,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": row["score"],
        "value": value,
    }
