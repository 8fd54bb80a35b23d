"""Polygons that people drew on a map, each of a class, read from vector files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.geo.geojson import read_geojson
from pipeline.geo.geopackage import SIGNATURE, read_features
from pipeline.geo.georef import DEGREES, Georef, crs_name, extent, transformer
from pipeline.geo.misread import no_degrees, refuse_shapefile
from pipeline.geo.polygons import Shapes

MAX_BYTES = 2 << 30
"""Most bytes of a file of labels."""
_BEYOND = 0.05
"""Of a raster's extent, within which labels beside it are looked at too."""
Feature = tuple[Any, object]
"""A geometry, and what its file says of its class."""


class LabelsError(ValueError):
    """A file of labels that cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class MapLabels:
    """n polygons on a map."""

    shapes: Shapes
    """Valid polygons and multipolygons, east before north."""
    classes: NDArray[np.int64]
    """(n,) index into `names`."""
    names: tuple[str, ...]
    """Sorted."""
    crs: str
    left_out: Counter[str] = field(default_factory=Counter)
    """Features that are no labels, by reason."""

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    def near(self, georef: Georef, width: int, height: int) -> tuple[Shapes, NDArray[np.int64]]:
        """The labels that a raster of that size may show, in its pixels, valid; and which of the n each is.

        Those without a place in the raster's CRS are left out. Raises ValueError where there is no way from
        their CRS to the raster's.
        """
        bounds = extent(georef, width, height, self.crs)
        if bounds is None:
            numbers = np.arange(len(self.shapes))
        else:
            west, south, east, north = bounds
            beyond = _BEYOND * max(east - west, north - south)  # its edges bend in the labels' CRS
            box = shapely.box(west - beyond, south - beyond, east + beyond, north + beyond)
            numbers = np.sort(self._tree.query(box))
        shapes = self.shapes[numbers]
        if crs_name(self.crs) != georef.crs:
            change = transformer(self.crs, georef.crs)
            shapes = shapely.transform(shapes, lambda at: np.column_stack(change.transform(*at.T)))
        shapes = shapely.transform(shapes, lambda at: np.column_stack(georef.pixel(*at.T)))
        usable = np.isfinite(shapely.bounds(shapes)).all(axis=1)
        return shapely.make_valid(shapes[usable]), numbers[usable]


def read_labels(data: bytes, name: str, column: str | None = None, alone: str = "object") -> MapLabels:
    """The polygons of a GeoJSON or GeoPackage file; `name` is the file's, for messages.

    `column` is the property that names a polygon's class; without one all are of the class `alone`. A GeoJSON
    without a `crs` member is longitude and latitude, as the standard says. Raises LabelsError.
    """
    try:
        refuse_shapefile(data, name)
    except ValueError as error:
        raise LabelsError(str(error)) from None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
        read = read_features if data.startswith(SIGNATURE) else _geojson
        features, named = read(data, column)
        found = _labels(features, crs_name(named or DEGREES), column, alone)
        wrong = no_degrees(found.shapes, name, found.crs, named=bool(named))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise LabelsError(
            f"{name}: no labels on a map ({str(error)[:300]}); give polygons as GeoJSON or GPKG"
        ) from None
    except shapely.errors.ShapelyError as error:
        raise LabelsError(f"{name}: a geometry is damaged ({str(error)[:300]})") from None
    if wrong is not None:
        raise LabelsError(str(wrong))
    return found


def _labels(features: Iterable[Feature], crs: str, column: str | None, alone: str) -> MapLabels:
    shapes, said, left_out = [], [], Counter[str]()
    for shape, value in features:
        polygon = None if shape is None else _polygons(shape)
        text = alone if column is None else str(value if value is not None else "").strip()
        if polygon is None:
            left_out["features that are no polygons"] += 1
        elif not text:
            left_out[f"polygons without a class ({column} is missing or empty)"] += 1
        else:
            shapes.append(polygon)
            said.append(text)
    if not shapes:
        listed = "".join(f"; {number:,} {what}" for what, number in left_out.items())
        raise ValueError(f"it holds no polygon with a class{listed}")
    names = tuple(sorted(set(said)))
    index = {name: number for number, name in enumerate(names)}
    found = np.empty(len(shapes), object)
    found[:] = shapes
    return MapLabels(found, np.array([index[text] for text in said], np.int64), names, crs, left_out)


def _polygons(shape: Any) -> Any | None:
    """What of a geometry is an area, valid; None where nothing is."""
    if shapely.get_dimensions(shape) != 2 or not np.isfinite(shapely.get_coordinates(shape)).all():
        return None
    parts = shapely.get_parts(shapely.make_valid(shapely.force_2d(shape)))
    parts = parts[shapely.get_dimensions(parts) == 2]
    return shapely.union_all(parts) if len(parts) else None


def _geojson(data: bytes, column: str | None) -> tuple[Iterator[Feature], str]:
    """Its features, and the CRS that it names, or none."""
    document, crs = read_geojson(data)
    if document.get("type") != "FeatureCollection":
        raise ValueError("not a GeoJSON FeatureCollection")
    if column is not None and not any(column in (f.get("properties") or {}) for f in document["features"]):
        known = sorted({key for f in document["features"][:100] for key in f.get("properties") or {}})
        raise ValueError(
            f"no feature has a property {column!r}; there are {', '.join(known)[:200] or 'none'}"
        )
    return _features(document["features"], column), crs


def _features(features: Iterable[dict[str, Any]], column: str | None) -> Iterator[Feature]:
    for feature in features:
        geometry = feature["geometry"]
        shape = None if geometry is None else shapely.from_geojson(json.dumps(geometry))
        yield shape, (feature.get("properties") or {}).get(column)
