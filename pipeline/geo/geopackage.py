"""Polygons of a GeoPackage, which is an SQLite database, read without GDAL and without a file on disk.

https://www.geopackage.org/spec131/
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import shapely

SIGNATURE = b"SQLite format 3\0"
_HEADER = 8
"""Bytes before a geometry's bounding box."""
_ENVELOPES = (0, 32, 48, 48, 64)
"""Bytes of a geometry's bounding box, by its kind."""
_UNDEFINED = (-1, 0)
"""Identifiers of reference systems that say nothing."""


def read_geopackage(data: bytes) -> tuple[list[Any], str]:
    """The geometries of a GeoPackage's one table of features, and its CRS.

    Raises ValueError for other than one such table, and where the file or a geometry in it is damaged.
    """
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            database.execute("PRAGMA trusted_schema = OFF")
            tables = database.execute(
                "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
            ).fetchall()
            if len(tables) != 1:
                raise ValueError(f"it has {len(tables)} tables with geometries; an area of interest is one")
            table, column, system = tables[0]
            return list(_shapes(database, table, column)), _crs(database, system)
    except sqlite3.Error as error:
        raise ValueError(f"the GeoPackage is damaged ({error})") from None


def _crs(database: sqlite3.Connection, system: int) -> str:
    found = database.execute(
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys"
        " WHERE srs_id = ?",
        (system,),
    ).fetchone()
    if system in _UNDEFINED or found is None:
        raise ValueError("the GeoPackage does not say in which CRS its geometries are")
    organization, code, definition = found
    return f"EPSG:{code}" if organization.upper() == "EPSG" else str(definition)


def _shapes(database: sqlite3.Connection, table: str, column: str) -> Iterator[Any]:
    name, field = (part.replace('"', '""') for part in (table, column))
    for (blob,) in database.execute(f'SELECT "{field}" FROM "{name}"'):  # noqa: S608  # quoted above
        if blob is None:
            continue
        if blob[:2] != b"GP" or len(blob) < _HEADER or blob[3] >> 1 & 7 >= len(_ENVELOPES):
            raise ValueError("a geometry is not in the GeoPackage's form")
        yield shapely.from_wkb(bytes(blob[_HEADER + _ENVELOPES[blob[3] >> 1 & 7] :]))
