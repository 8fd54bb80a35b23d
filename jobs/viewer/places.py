"""Where a run's instances lie in longitude and latitude, whatever the CRS of its output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from pipeline.commit import public_key
from pipeline.geo.geoparquet import read_crs
from pipeline.geo.georef import Georef, crs_name, transformer
from pipeline.storage import NotFound
from pipeline.tables import Run

WGS84 = "OGC:CRS84"
_DECIMALS = 8
"""Of a degree: a millimetre."""


def run_crs(run: Run) -> str | None:
    """The CRS of the run's geometries, as its files' GeoParquet metadata give it; None for a run without."""
    for commit in run.commits:
        if commit.files["instances"].rows:
            try:
                file = run.store.reader(public_key("instances", commit.shard))
            except NotFound:  # between commit and publication: the next shard says it as well
                continue
            return read_crs(pq.read_schema(pa.PythonFile(file, mode="r")))
    return None


def centres(geometry: pa.ChunkedArray, crs: str) -> tuple[pa.Array, pa.Array]:
    """Longitude and latitude of the middle of each WKB geometry's bounds; null where there is none."""
    bounds = shapely.bounds(shapely.from_wkb(geometry.to_numpy()))
    lon, lat = transformer(crs, WGS84).transform(
        (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
    )
    return _column(lon), _column(lat)


def geojson(geometry: bytes, crs: str) -> dict[str, Any]:
    """A geometry given as WKB as GeoJSON writes it, in longitude and latitude."""
    shape = shapely.from_wkb(geometry)
    to = transformer(crs, WGS84)
    moved = shapely.transform(shape, lambda at: np.column_stack(to.transform(at[:, 0], at[:, 1])))
    written: dict[str, Any] = json.loads(shapely.to_geojson(shapely.set_precision(moved, 10**-_DECIMALS)))
    return written


def corners(crs: str | None, transform: Sequence[float] | None, width: int, height: int) -> Any:
    """Longitude and latitude of an image's corners, clockwise from its top left; None without a place."""
    if not crs or transform is None or len(transform) < 6:
        return None
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    x, y = np.array([0.0, width, width, 0.0]), np.array([0.0, 0.0, height, height])
    east, north = Georef(crs_name(crs), (a, b, c, d, e, f)).ground(x, y)
    lon, lat = transformer(crs_name(crs), WGS84).transform(east, north)
    placed = np.column_stack([lon, lat])
    return placed.round(_DECIMALS).tolist() if np.isfinite(placed).all() else None


def _column(degrees: NDArray[np.float64]) -> pa.Array:
    return pa.array(degrees, pa.float64(), mask=~np.isfinite(degrees))
