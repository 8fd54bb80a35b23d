"""A run as YOLO segmentation labels: a text file an image, a polygon an instance, sizes from 0 to 1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from pipeline.export.files import UNNAMEABLE, UNNAMED, Place, relative, whole_folder
from pipeline.export.selection import CORNERS, UNSIZED, Exported, Part, Selection, parts
from pipeline.geo.polygons import pixel_polygons
from pipeline.geo.simplify import corners, simplified
from pipeline.rowmasks import rle_masks
from pipeline.tables import Run

LOSSES = (
    "YOLO has no holes: they are filled",
    "an instance is one polygon: parts that lie apart are joined by lines of no width",
    "scores, areas and the model's boxes are not in it",
    "overlapping instances stay, but a label file does not say which lies on top",
)
_COLUMNS = ("category_id", "category", "area", "mask")
_CLASH = "images of one name but for its ending, which YOLO cannot tell apart: left out"
_DECIMALS = 7
_ROWS = 4096
"""Instances whose outlines are in memory at a time."""


def write_yolo(run: Run, selection: Selection, path: Place, simplify: float = 0) -> Exported:
    """Write the folder `path`: `labels/<image>.txt`, `data.yaml`, and `images.txt` with the images' URIs.

    Classes count from 0 in the order of their ids; an image without instances has an empty file. With
    `simplify` polygons have fewer corners and stray by up to so many pixels. Raises TargetError, StoreError.
    """
    done = Exported()
    names: dict[int, str] = {}
    with whole_folder(path) as folder:
        (folder / "labels").mkdir()
        with (folder / "images.txt").open("w", encoding="utf-8") as listing:
            for part, uris, found in parts(
                run, selection, lambda part: _write(part, folder, simplify), instances=_COLUMNS
            ):
                names |= found
                done.add(part)
                listing.writelines(f"{uri}\n" for uri in uris)
        # A list in JSON is one in YAML.
        listed = json.dumps(_classes(names), ensure_ascii=False)
        data = f"path: .\ntrain: images\nval: images\nnames: {listed}\n"
        (folder / "data.yaml").write_text(data, encoding="utf-8")
    return done


def _classes(names: dict[int, str]) -> list[str]:
    """Names by YOLO's class numbers, which have no gaps."""
    return [names.get(number + 1, f"class {number + 1}") for number in range(max(names, default=0))]


def _write(part: Part, folder: Path, simplify: float) -> tuple[Exported, list[str], dict[int, str]]:
    """Write a shard's images; returns the URIs of those that could be, and the classes met."""
    done, uris = Exported(), []
    listed = part.images.select(["image_id", "uri", "width", "height"]).to_pylist()
    for at, some in part.by_image():
        image = listed[at]
        if image["width"] is None:
            done.losses[UNSIZED] += 1
            continue
        rows = part.instances.slice(some.start, some.stop - some.start)
        path = (folder / "labels" / relative(image["image_id"])).with_suffix(".txt")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                done.losses.update(_write_labels(file, image, rows, simplify))
        except OSError as error:
            if error.errno not in UNNAMEABLE:
                raise
            done.losses[_CLASH if isinstance(error, FileExistsError) else UNNAMED] += 1
            continue
        done.images += 1
        done.instances += rows.num_rows
        uris.append(image["uri"] or image["image_id"])
    return done, uris, part.categories()


def _write_labels(file: IO[str], image: dict[str, Any], rows: pa.Table, simplify: float) -> Counter[str]:
    """Write one image's instances, some at a time; returns what was lost."""
    scale = np.array([image["width"], image["height"]])
    losses: Counter[str] = Counter()
    for at in range(0, rows.num_rows, _ROWS):
        some = rows.slice(at, _ROWS)
        shapes = pixel_polygons(rle_masks(some))
        solids = [solid_parts(shape) for shape in shapes]
        losses.update(_losses(shapes, solids, pc.sum(some["area"]).as_py()))
        if simplify:
            whole, solids = solids, [simplified(solid, simplify) for solid in solids]
            losses[CORNERS] += sum(map(corners, whole)) - sum(map(corners, solids))
        labels = some["category_id"].to_numpy() - 1
        file.writelines(_line(int(n), solid, scale) for n, solid in zip(labels, solids, strict=True))
    return losses


def _losses(shapes: Any, solids: Sequence[Any], pixels: int) -> dict[str, int]:
    parts, owner = shapely.get_parts(shapes, return_index=True)
    found = {
        "instances had holes, which are filled": len(np.unique(owner[_holed(parts)])),
        "pixels of holes are now pixels of instances": round(_area(solids)) - pixels,
        "instances lay in several parts, which are joined": sum(len(solid) > 1 for solid in solids),
    }
    return {what: number for what, number in found.items() if number}


def _holed(parts: Any) -> Any:
    return shapely.get_num_interior_rings(parts) > 0


def _area(solids: Sequence[Any]) -> float:
    return float(sum(shapely.area(solid).sum() for solid in solids))


def solid_parts(shape: Any) -> Any:
    """A mask's parts without their holes; a part within another's hole is in that one then."""
    solid = shapely.polygons(shapely.get_exterior_ring(shapely.get_parts(shape)))
    if len(solid) == 1:
        return solid
    inner, outer = shapely.STRtree(solid).query(solid, predicate="within")
    return np.delete(solid, inner[inner != outer])


def _line(label: int, solid: Any, scale: Any) -> str:
    """One instance: its class and the corners of its one polygon, as shares of the image's size."""
    rings = [shapely.get_coordinates(part) for part in solid]
    corners = outline(rings) / scale
    numbers = (f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".") for value in corners.ravel())
    return f"{label} {' '.join(numbers)}\n"


def outline(rings: Iterable[Any]) -> Any:
    """Closed rings as one ring: from each to the next, and back the same way, so that nothing is added.

    Corners (n, 2); the last is not the first again.
    """
    closed = list(rings)
    if len(closed) == 1:
        return closed[0][:-1]
    return np.concatenate([*closed, *(ring[:1] for ring in closed[-2:0:-1])])
