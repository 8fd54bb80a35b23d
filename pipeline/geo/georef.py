"""Where a raster lies: its coordinate reference system and the transform from pixels to the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import LambertCylindricalEqualAreaConversion
from pyproj.exceptions import ProjError
from rasterio.io import DatasetReader

Floats = NDArray[np.float64]
Bounds = tuple[float, float, float, float]
"""West, south, east and north."""
DEGREES = "OGC:CRS84"
"""What a GeoJSON that names no CRS is in."""

_STEP = 4.0
"""Pixels to either side over which a pixel's size on the ground is taken: far enough for float64."""


@dataclass(frozen=True)
class Georef:
    """A raster's place on the map. Plain values, for the plan and for tables."""

    crs: str
    """An authority's code such as `EPSG:32635`, or WKT where there is none."""
    transform: tuple[float, float, float, float, float, float]
    """a, b, c, d, e, f of X = a x + b y + c and Y = d x + e y + f; x and y are pixels from the top left
    corner of the top left pixel, X and Y in the order east, north (longitude, latitude)."""

    def ground(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Coordinates in the CRS of positions in pixels."""
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f

    def pixel(self, easting: Floats, northing: Floats) -> tuple[Floats, Floats]:
        """Positions in pixels of coordinates in the CRS."""
        a, b, c, d, e, f = self.transform
        east, north, size = easting - c, northing - f, a * e - b * d
        return (e * east - b * north) / size, (a * north - d * east) / size

    def scaled(self, x_scale: float, y_scale: float) -> Georef:
        """The same place in pixels that are so many times larger."""
        a, b, c, d, e, f = self.transform
        return Georef(self.crs, (a * x_scale, b * y_scale, c, d * x_scale, e * y_scale, f))

    def shifted(self, x: float, y: float) -> Georef:
        """The place of the part of the raster that begins at pixel (x, y)."""
        a, b, _, d, e, _ = self.transform
        (c, f) = self.ground(np.float64(x), np.float64(y))  # type: ignore[arg-type]
        return Georef(self.crs, (a, b, float(c), d, e, float(f)))

    def pixel_areas(self, x: Floats, y: Floats) -> Floats:
        """Square metres that a pixel at each position covers on the ellipsoid.

        Found in an equal-area projection of the CRS's own datum, so a map's distortion does not count. NaN
        where the CRS cannot be projected there. In a CRS without a datum, by its own units.
        """
        equal_area = _equal_area(self.crs)
        if equal_area is None:
            a, b, _, d, e, _ = self.transform
            return np.full(np.shape(x), abs(a * e - b * d) * _metres_a_unit(self.crs) ** 2)
        sides = np.array([[-_STEP, 0.0], [_STEP, 0.0], [0.0, -_STEP], [0.0, _STEP]])
        east, north = self.ground(x + sides[:, :1], y + sides[:, 1:])
        east, north = map(np.asarray, equal_area.to.transform(east, north))
        with np.errstate(invalid="ignore"):
            # Over the 180th meridian the projection begins anew.
            right, down = (_wrapped(east[at + 1] - east[at], equal_area.around) for at in (0, 2))
            areas = np.abs(right * (north[3] - north[2]) - down * (north[1] - north[0])) / (2 * _STEP) ** 2
        return np.where(np.isfinite(areas), areas, np.nan)

    def metres(self, width: int, height: int) -> float:
        """Metres a pixel in the middle of a raster of that size: the side of the square that it covers."""
        middle = np.array([width / 2]), np.array([height / 2])
        return math.sqrt(float(self.pixel_areas(*middle)[0]))


def georef_of(source: DatasetReader) -> Georef | None:
    """Where an opened raster lies; None without a CRS, or without a transform that can be inverted.

    Ground control points and RPCs are not a transform.
    """
    if not source.crs or source.transform.is_identity or source.transform.is_degenerate:
        return None
    transform = source.transform
    a, b, c, d, e, f = (float(value) for value in tuple(transform)[:6])
    if not all(math.isfinite(value) for value in (a, b, c, d, e, f)):
        return None
    return Georef(crs_name(source.crs.to_wkt()), (a, b, c, d, e, f))


@lru_cache(256)
def crs_name(crs: str) -> str:
    """A CRS given in any form as an authority's code where one means exactly this, else as WKT.

    A compound CRS loses its heights. Raises ValueError for what is no CRS.
    """
    try:
        found = CRS.from_user_input(crs)
        if found.is_compound:
            found = found.sub_crs_list[0]
        found = found.to_2d()
        code = found.to_authority(min_confidence=70)
        if code is not None and CRS.from_authority(*code).equals(found, ignore_axis_order=True):
            return ":".join(code)
        return found.to_wkt()
    except ProjError as error:
        raise ValueError(f"{crs[:80]!r} is no coordinate reference system: {str(error)[:200]}") from None


@lru_cache(256)
def transformer(source: str, target: str) -> Transformer:
    """What takes coordinates of one CRS to another, both in the order east, north. Safe in threads.

    Raises ValueError where there is no way, as from an engineering CRS.
    """
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as error:
        raise ValueError(f"there is no way from {source[:80]} to {target[:80]}: {str(error)[:200]}") from None


@dataclass(frozen=True)
class _EqualArea:
    to: Transformer
    around: float
    """Metres round the equator, which is as wide as the projection is."""


@lru_cache(256)
def _equal_area(crs: str) -> _EqualArea | None:
    """An equal-area projection of the same datum, so that no shift between datums comes in."""
    geodetic = CRS.from_user_input(crs).geodetic_crs
    if geodetic is None or geodetic.ellipsoid is None:
        return None
    projected = ProjectedCRS(LambertCylindricalEqualAreaConversion(), geodetic_crs=geodetic.to_2d())
    around = 2 * math.pi * geodetic.ellipsoid.semi_major_metre
    return _EqualArea(Transformer.from_crs(crs, projected, always_xy=True), around)


def _wrapped(difference: Floats, around: float) -> Floats:
    return difference - around * np.rint(difference / around)


def _metres_a_unit(crs: str) -> float:
    axes = CRS.from_user_input(crs).axis_info
    return float(axes[0].unit_conversion_factor) if axes else 1.0


def extent(georef: Georef, width: int, height: int, crs: str) -> Bounds | None:
    """Where a raster of that size lies in a CRS; None where that has no such place.

    Raises ValueError where there is no way from one to the other.
    """
    along = np.linspace(0.0, 1.0, 9)
    x, y = (part.ravel() for part in np.meshgrid(along * width, along * height))
    points = np.column_stack(georef.ground(x, y))
    if crs_name(crs) != georef.crs:
        points = np.column_stack(transformer(georef.crs, crs).transform(*points.T))
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    (west, south), (east, north) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return west, south, east, north
