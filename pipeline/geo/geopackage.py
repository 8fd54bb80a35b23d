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
    features, crs = read_features(data)
    return [shape for shape, _ in features if shape is not None], crs


def read_features(data: bytes, column: str | None = None) -> tuple[list[tuple[Any, object]], str]:
    """The same, None for a feature without a geometry, each with what a column says of it (None without one).

    Raises ValueError also where there is no such column, naming those that there are.
    """
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            database.execute("PRAGMA trusted_schema = OFF")
            tables = database.execute(
                "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
            ).fetchall()
            if len(tables) != 1:
                raise ValueError(f"it has {len(tables)} tables with geometries; one is read")
            table, geometry, system = tables[0]
            _demand(database, table, column)
            return list(_rows(database, table, geometry, column)), _crs(database, system)
    except sqlite3.Error as error:
        raise ValueError(f"the GeoPackage is damaged ({error})") from None


def _demand(database: sqlite3.Connection, table: str, column: str | None) -> None:
    known = [name for _, name, *_ in database.execute("SELECT * FROM pragma_table_info(?)", (table,))]
    if column is not None and column not in known:
        raise ValueError(f"table {table} has no column {column!r}; there are {', '.join(known)[:200]}")


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


def _rows(
    database: sqlite3.Connection, table: str, geometry: str, column: str | None
) -> Iterator[tuple[Any, object]]:
    name, field = _quoted(table), _quoted(geometry)
    also = "NULL" if column is None else _quoted(column)
    for blob, value in database.execute(f"SELECT {field}, {also} FROM {name}"):  # noqa: S608  # quoted above
        yield None if blob is None else _shape(blob), value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _shape(blob: bytes) -> Any:
    if blob[:2] != b"GP" or len(blob) < _HEADER or blob[3] >> 1 & 7 >= len(_ENVELOPES):
        raise ValueError("a geometry is not in the GeoPackage's form")
    return shapely.from_wkb(bytes(blob[_HEADER + _ENVELOPES[blob[3] >> 1 & 7] :]))
