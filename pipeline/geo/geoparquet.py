"""GeoParquet 1.1: a column of geometries, the covering beside it, and what a file's metadata says of them.

https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from pyproj import CRS

from pipeline.geo.georef import Floats
from pipeline.geo.polygons import OnMap
from pipeline.schemas import COVERING, COVERING_TYPE

__all__ = [
    "COLUMN",
    "COVERING",
    "COVERING_TYPE",
    "PLACED",
    "TYPES",
    "VERSION",
    "geo_columns",
    "geo_metadata",
    "no_geo_columns",
    "read_crs",
]

VERSION = "1.1.0"
COLUMN = "geometry"
PLACED = (COLUMN, COVERING, "area_m2")
"""The columns that say where an instance lies."""
TYPES = ("MultiPolygon", "Polygon")


def geo_columns(found: OnMap) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The columns `geometry`, `geometry_bbox` and `area_m2` of instances; null where there is no geometry."""
    missing = np.array([shape is None for shape in found.geometry], bool)
    sides = [pa.array(side, pa.float64()) for side in found.bounds.T]
    covering = pa.StructArray.from_arrays(sides, fields=list(COVERING_TYPE), mask=pa.array(missing))
    area = pa.array(found.area, pa.float64(), mask=missing | ~np.isfinite(found.area))
    return pa.array(found.wkb, pa.binary()), covering, area


def no_geo_columns(rows: int) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The same columns of instances that lie nowhere."""
    return pa.nulls(rows, pa.binary()), pa.nulls(rows, COVERING_TYPE), pa.nulls(rows, pa.float64())


def geo_metadata(crs: str, bounds: Floats | None = None, types: Iterable[str] = TYPES) -> dict[str, str]:
    """What a file with those columns says under the key `geo`; empty bounds and none given are left out.

    `crs` is an authority's code or WKT, `bounds` (n, 4) those of the file's geometries, `types` the ones it
    holds, or may hold.
    """
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": sorted(types),
        "crs": CRS.from_user_input(crs).to_json_dict(),
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: [COVERING, side] for side in COVERING_TYPE.names}},
    }
    if bounds is not None and np.isfinite(bounds).all(axis=1).any():
        least, greatest = np.nanmin(bounds[:, :2], axis=0), np.nanmax(bounds[:, 2:], axis=0)
        column["bbox"] = [*least.tolist(), *greatest.tolist()]
    document = {"version": VERSION, "primary_column": COLUMN, "columns": {COLUMN: column}}
    return {"geo": json.dumps(document, separators=(",", ":"), sort_keys=True)}


def read_crs(schema: pa.Schema) -> str | None:
    """The CRS that a file's `geo` metadata gives, in a form pyproj reads; None for a file without."""
    said = (schema.metadata or {}).get(b"geo")
    if said is None:
        return None
    crs = json.loads(said)["columns"][COLUMN].get("crs", "OGC:CRS84")
    return crs if isinstance(crs, str) else json.dumps(crs)
