"""A run as files that map programs open; a mask whose row has no geometry gets it from its image's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import shapely

from pipeline.export.files import Place, whole_file
from pipeline.export.selection import CORNERS, IMAGE_COLUMNS, Exported, Part, Selection, parts
from pipeline.geo.export import export
from pipeline.geo.geoparquet import COLUMN, PLACED, geo_columns, no_geo_columns
from pipeline.geo.georef import Georef, crs_name
from pipeline.geo.polygons import OnMap, on_map, reprojected
from pipeline.geo.simplify import corners, simplified_on_map
from pipeline.rowmasks import combined, rle_masks
from pipeline.schemas import INSTANCES_SCHEMA, TILED_INSTANCES_SCHEMA
from pipeline.tables import Run

LOSSES = {
    "geojson": (
        "coordinates are longitude and latitude, 9 decimals; the output's own CRS is gone",
        "masks are not in it: the polygons run along the same pixels' edges",
    ),
    "gpkg": ("masks are not in it: the polygons run along the same pixels' edges",),
    "flatgeobuf": (
        "masks are not in it: the polygons run along the same pixels' edges",
        "rows are ordered for the index, not as in the table",
    ),
    "geoparquet": (),
}
UNPLACED = "instances of images without a place on the map, left out"
_ROWS = 8192
"""Instances whose geometries are in memory at a time."""
_COLUMNS = tuple(INSTANCES_SCHEMA.names)


class NoPlace(ValueError):
    """A run none of whose images says where it lies."""


def write_places(
    run: Run, selection: Selection, path: Place, crs: str | None = None, simplify: float = 0
) -> Exported:
    """Write the file `path`, whose ending names the format (`pipeline.geo.export.FORMATS`).

    Geometries are in `crs`; without one, in the output's own, or in that of the first image that has a place.
    With `simplify` they have fewer corners and stray by up to so many of their image's pixels.
    Raises NoPlace when none has, ValueError for what is no CRS, TargetError, StoreError.
    """
    target = crs_name(crs or run.crs) if crs or run.crs else first_crs(run, selection)
    done = Exported()
    batches = _batches(run, selection, target, simplify, done)
    with whole_file(path) as temporary:
        exported = export(batches, TILED_INSTANCES_SCHEMA, target, temporary)
    done.instances = exported.rows
    if exported.without_place:
        done.losses[UNPLACED] += exported.without_place
    return done


def first_crs(run: Run, selection: Selection) -> str:
    """The CRS of the first image that has a place. Raises NoPlace."""

    def of(part: Part) -> str | None:
        placed = pc.drop_null(part.images["crs"])
        return placed[0].as_py() if len(placed) else None

    found = next(filter(None, parts(run, selection, of, images=("image_id", "status", "crs"))), None)
    if found is None:
        raise NoPlace(
            f"no image of {run.store.uri} has a place on the map (column `crs` of images): its instances "
            "cannot be drawn on one; --format coco, yolo-seg, labelstudio and png-masks need no place"
        )
    return crs_name(found)


def _batches(
    run: Run, selection: Selection, target: str, simplify: float, done: Exported
) -> Iterator[pa.RecordBatch]:
    """Image by image and some rows of it at a time, so that the geometries of those alone are in memory."""
    images = (*IMAGE_COLUMNS, "crs", "transform")
    for part in parts(run, selection, lambda part: part, images=images, instances=_COLUMNS):
        listed = part.images.select(["crs", "transform"]).to_pylist()
        for at, some in part.by_image():
            done.images += 1
            for first in range(some.start, some.stop, _ROWS):
                rows = part.instances.slice(first, min(_ROWS, some.stop - first))
                found = _found(rows, _georef(listed[at]), run.crs, target)
                if found is not None and simplify:
                    found = _fewer_corners(found, rows, simplify, done)
                yield from _placed(rows, found)


def _georef(image: Mapping[str, Any]) -> Georef | None:
    known = image["crs"] and image["transform"]
    return Georef(image["crs"], tuple(image["transform"])) if known else None


def _placed(rows: pa.Table, found: OnMap | None) -> list[pa.RecordBatch]:
    """One image's rows with their geometries, null where it has no place."""
    columns = {name: combined(rows[name]) for name in INSTANCES_SCHEMA.names}
    placed = no_geo_columns(rows.num_rows) if found is None else geo_columns(found)
    columns |= dict(zip(PLACED, placed, strict=True))
    arrays = [columns[name] for name in TILED_INSTANCES_SCHEMA.names]
    return pa.Table.from_arrays(arrays, schema=TILED_INSTANCES_SCHEMA).to_batches()  # type: ignore[no-any-return]


def _fewer_corners(found: OnMap, rows: pa.Table, pixels: float, done: Exported) -> OnMap:
    fewer = simplified_on_map(found, rows["area"].to_numpy(), pixels)
    done.losses[CORNERS] += corners(found.geometry) - corners(fewer.geometry)
    return fewer


def _found(rows: pa.Table, georef: Georef | None, own: str | None, target: str) -> OnMap | None:
    """One image's instances on the map; None where it has no place in `target`.

    `own` is the CRS of the geometries that the table has already.
    """
    if georef is None:
        return None
    try:
        return _on_map(rows, georef, own or georef.crs, target)
    except ValueError:  # it lies where the CRS has no coordinates
        return None


def _on_map(rows: pa.Table, georef: Georef, crs: str, target: str) -> OnMap:
    """The instances on the map: by their own geometry, in `crs`, where they have one, else by their masks."""
    masks, own = rle_masks(rows), combined(rows[COLUMN])
    if own.null_count:
        return on_map(masks, georef, target)
    shapes = shapely.from_wkb(own.to_numpy(zero_copy_only=False))
    if target != crs:
        shapes = reprojected(shapes, crs, target)
    middle = masks.x + masks.width / 2, masks.y + masks.height / 2
    return OnMap(shapes, shapely.bounds(shapes), masks.area * georef.pixel_areas(*middle))
