"""A run's instances as files that map programs open: GeoParquet, GeoJSON, GeoPackage, FlatGeobuf.

Rows are streamed: memory holds a batch of them, whatever their number. FlatGeobuf alone needs more, for its
index: some 100 bytes a row, and a buffer of at most 100 MB at the end.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from pyproj import CRS

from pipeline.geo.geoparquet import COLUMN, COVERING, geo_metadata
from pipeline.geo.polygons import mended, reprojected

FORMATS = {
    ".parquet": "GeoParquet",
    ".geojson": "GeoJSON",
    ".geojsonl": "GeoJSONSeq",
    ".gpkg": "GPKG",
    ".fgb": "FlatGeobuf",
}
"""Formats by the ending of a file's name."""

_LAYER = "instances"
_WGS84 = "OGC:CRS84"
_DECIMALS = 9
"""Of a degree in GeoJSON: a tenth of a millimetre."""
_DEGREES = ("GeoJSON", "GeoJSONSeq")
"""Formats whose coordinates are longitude and latitude, whatever those of the rows."""
_NOT_FLAT = ("mask", COVERING, COLUMN)
Batches = Iterable[pa.RecordBatch]


@dataclass
class Exported:
    """What an export wrote."""

    rows: int = 0
    without_place: int = 0
    """Rows that have no geometry, and are in no map."""


def export(batches: Batches, schema: pa.Schema, crs: str, path: Path) -> Exported:
    """Write instances as the file `path`, whose ending names the format; it appears when it is whole.

    `batches` are rows of `schema`, which is that of the instances table and may have more columns; `crs` is
    that of their geometries. GeoParquet keeps every column. The other formats have a column for each part of
    `bbox` and none for the mask; GeoJSON is in longitude and latitude, as its standard asks.

    Raises ValueError for another ending and where `schema` has no geometry, ImportError, saying what to
    install, where GPKG or FlatGeobuf is asked for without pyogrio.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ValueError(f"{path}: the ending names the format; one of {', '.join(FORMATS)}")
    if COLUMN not in schema.names:
        raise ValueError(f"the rows have no column {COLUMN!r}: their images say nothing of where they lie")
    done = Exported()
    # The ending stays: GDAL takes its part in the form.
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}{path.suffix.lower()}")
    placed = _placed(_in_degrees(batches, crs) if form in _DEGREES else batches, done)
    try:
        _WRITERS[form](placed, schema, crs, temporary)
        os.replace(temporary, path)
    finally:
        for left in (temporary, *temporary.parent.glob(f"{temporary.name}-*")):
            with suppress(FileNotFoundError):
                left.unlink()
    return done


def _placed(batches: Batches, done: Exported) -> Iterator[pa.RecordBatch]:
    """The rows that have a geometry, counted."""
    for batch in batches:
        placed = batch.filter(pc.is_valid(batch.column(COLUMN)))
        done.rows += placed.num_rows
        done.without_place += batch.num_rows - placed.num_rows
        if placed.num_rows:
            yield placed


def _in_degrees(batches: Batches, crs: str) -> Iterator[pa.RecordBatch]:
    """The rows with their geometries in longitude and latitude, rounded."""
    for batch in batches:
        shapes = reprojected(_shapes(batch), crs, _WGS84)
        shapes = mended(shapely.transform(shapes, lambda points: points.round(_DECIMALS)))
        column = pa.array(shapely.to_wkb(shapes), pa.binary())
        yield batch.set_column(batch.schema.get_field_index(COLUMN), COLUMN, column)


def _geoparquet(batches: Batches, schema: pa.Schema, crs: str, path: Path) -> None:
    kinds: set[str] = set()
    bounds = np.full((1, 4), np.nan)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            shapes = _shapes(batch)
            kinds |= {str(shape.geom_type) for shape in shapes}
            here = shapely.bounds(shapes)
            bounds = np.vstack([bounds, here])
            bounds = np.array([[*np.nanmin(bounds[:, :2], axis=0), *np.nanmax(bounds[:, 2:], axis=0)]])
            writer.write_batch(batch)
        writer.add_key_value_metadata(geo_metadata(crs, bounds, kinds))


def _geojson(batches: Batches, schema: pa.Schema, crs: str, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for number, feature in enumerate(_features(batches)):
            file.write(f"{',' if number else ''}\n{feature}")
        file.write("\n]}\n")


def _geojson_lines(batches: Batches, schema: pa.Schema, crs: str, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for feature in _features(batches):
            file.write(f"{feature}\n")


def _features(batches: Batches) -> Iterator[str]:
    for batch in batches:
        geometries = shapely.to_geojson(_shapes(batch))
        for properties, geometry in zip(_flat(batch).to_pylist(), geometries, strict=True):
            text = json.dumps(properties, separators=(",", ":"), ensure_ascii=False, default=str)
            yield f'{{"type":"Feature","properties":{text},"geometry":{geometry}}}'


def _with_gdal(driver: str) -> Callable[[Batches, pa.Schema, str, Path], None]:
    def write(batches: Batches, schema: pa.Schema, crs: str, path: Path) -> None:
        try:
            import pyogrio
        except ImportError:
            raise ImportError(
                f"{driver} is written with pyogrio, which is not installed; from the root of the clone: "
                "pip install -c constraints.txt '.[export]'"
            ) from None
        empty = pa.RecordBatch.from_pylist([], schema)
        flat = _with_shapes(_flat(empty), _shapes(empty)).schema
        faults: list[Exception] = []
        try:
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(flat, _multipolygons(batches, faults)),
                path,
                layer=_LAYER,
                driver=driver,
                geometry_name=COLUMN,
                geometry_type="MultiPolygon",
                crs=CRS.from_user_input(crs).to_wkt(),
            )
        except Exception:
            if faults:
                raise faults[0] from None
            raise

    return write


def _multipolygons(batches: Batches, faults: list[Exception]) -> Iterator[pa.RecordBatch]:
    """The rows as a layer of one kind; what goes wrong is noted, because GDAL forgets what it was."""
    try:
        for batch in batches:
            parts, owner = shapely.get_parts(_shapes(batch), return_index=True)
            yield _with_shapes(_flat(batch), shapely.multipolygons(parts, indices=owner))
    except Exception as error:
        faults.append(error)
        raise


def _shapes(batch: pa.RecordBatch) -> Any:
    return shapely.from_wkb(batch.column(COLUMN).to_numpy(zero_copy_only=False))


def _with_shapes(batch: pa.RecordBatch, shapes: Any) -> pa.RecordBatch:
    kind = pa.field(COLUMN, pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
    return batch.append_column(kind, pa.array(shapely.to_wkb(shapes), pa.binary()))


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that a table of plain values can hold."""
    columns: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name in _NOT_FLAT:
            continue
        if pa.types.is_dictionary(column.type):
            columns[name] = column.cast(column.type.value_type)
        elif pa.types.is_struct(column.type):
            columns |= {f"{name}_{part.name}": pc.struct_field(column, part.name) for part in column.type}
        else:
            columns[name] = column
    return pa.RecordBatch.from_pydict(columns)


_WRITERS: dict[str, Callable[[Batches, pa.Schema, str, Path], None]] = {
    "GeoParquet": _geoparquet,
    "GeoJSON": _geojson,
    "GeoJSONSeq": _geojson_lines,
    "GPKG": _with_gdal("GPKG"),
    "FlatGeobuf": _with_gdal("FlatGeobuf"),
}
