"""Files with polygons on a map that are not what they are taken for, and what makes them that."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

_SHAPEFILE, _ZIP = (9994).to_bytes(4, "big"), b"PK\x03\x04"
"""How a shapefile begins, and an archive that may hold one."""
_TURN = 360.0
"""Degrees of longitude that a shape may reach to: some go on counting where they cross the 180th meridian."""


def refuse_shapefile(data: bytes, name: str) -> None:
    """Raise ValueError for a shapefile, also one in an archive, that says how to make of it what is read."""
    file = name.rpartition("/")[2]
    if data.startswith(_ZIP) and b".shp" in data:
        file = f"/vsizip/{file}"
    elif not data.startswith(_SHAPEFILE):
        return
    raise ValueError(
        f"{name} is a shapefile, which is not read; "
        f"`ogr2ogr area.gpkg {shlex.quote(file)}` makes a GeoPackage of it, which is"
    )


def no_degrees(polygons: Any, name: str, crs: str, *, named: bool) -> ValueError | None:
    """What to raise for coordinates that are no degrees though their CRS, `named` by the file, is of these.

    None where all are, or the CRS is none of longitude and latitude.
    """
    points = shapely.get_coordinates(polygons)
    wrong = points[(np.abs(points) > (_TURN, 90.0)).any(axis=1)]
    if not len(wrong) or not CRS.from_user_input(crs).is_geographic:
        return None
    x, y = wrong[0].tolist()
    said = f"{name}: {x:.10g}, {y:.10g} is no longitude and latitude, "
    said += f"as {crs[:40]}, which it names, has them" if named else "and it names no `crs` that is of others"
    if abs(x) <= 90 and abs(y) <= _TURN:
        return ValueError(f"{said}; swap the two: longitude comes first")
    return ValueError(
        f"{said}; name the one that it is in, here for example EPSG:32635, with a `crs` member "
        '("crs": {"type": "name", "properties": {"name": "EPSG:32635"}}), or make degrees of it: '
        "`ogr2ogr -s_srs EPSG:32635 -t_srs EPSG:4326`"
    )
