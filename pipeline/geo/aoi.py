"""Areas of interest: polygons of a GeoJSON or GeoPackage file that limit what is read and what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from condinst.instances import RleMasks
from pipeline.geo.geojson import read_geojson
from pipeline.geo.geopackage import SIGNATURE, read_geopackage
from pipeline.geo.georef import DEGREES, Georef, crs_name, transformer
from pipeline.geo.misread import no_degrees, refuse_shapefile
from pipeline.geo.polygons import pixel_polygons
from pipeline.geo.windows import Grid, windows
from pipeline.records import Window

MAX_BYTES = 64 << 20
"""Most bytes of a file with an area of interest."""
_EDGE = 128
"""An edge is divided so finely, in parts of the area's extent, before it is projected: it bends."""
_BATCH = 65536
_NO_AREA = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    shapely.errors.ShapelyError,
)
"""What a file of any bytes may raise on its way to polygons."""


@dataclass(frozen=True)
class Area:
    """An area of interest on the map."""

    shape: Any
    """A valid polygon or multipolygon, east before north."""
    crs: str

    def on_raster(self, georef: Georef, width: int, height: int) -> RasterArea | None:
        """The area in the pixels of a raster, or None where they do not meet.

        Raises ValueError where there is no way from the area's CRS to the raster's, or none for this area.
        """
        try:
            shape = self._in_pixels(georef)
            shape = shapely.intersection(shapely.make_valid(shape), shapely.box(0, 0, width, height))
        except shapely.errors.ShapelyError as error:
            raise ValueError(
                f"the area of interest cannot be brought onto the raster ({str(error)[:200]})"
            ) from None
        return RasterArea(shape, width, height) if shape.area > 0 else None

    def _in_pixels(self, georef: Georef) -> Any:
        """The shape in a raster's pixels, wherever that lies; perhaps not valid any more."""
        shape = self.shape
        if crs_name(self.crs) != georef.crs:
            west, south, east, north = shape.bounds
            shape = shapely.segmentize(shape, max(east - west, north - south) / _EDGE)
            change = transformer(self.crs, georef.crs)
            shape = shapely.transform(shape, lambda points: np.column_stack(change.transform(*points.T)))
        if not _finite(shape):
            raise ValueError(f"the area of interest reaches beyond where {georef.crs[:80]} can be used")
        return shapely.transform(shape, lambda points: np.column_stack(georef.pixel(*points.T)))


@dataclass(frozen=True)
class RasterArea:
    """An area of interest in a raster's pixels, as far as it lies inside."""

    shape: Any
    width: int
    height: int

    def __post_init__(self) -> None:
        shapely.prepare(self.shape)

    @property
    def part(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels that it lies in."""
        left, top, right, bottom = self.shape.bounds
        return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)

    def windows(
        self, size: int, overlap: int, grid: int = 1, phase: tuple[int, int] = (0, 0)
    ) -> tuple[Grid, NDArray[np.int64]]:
        """A grid over the area, as `pipeline.geo.windows` makes it; the numbers of its windows in it, rising.

        The grid reaches `overlap` beyond the area, inside the raster, so that what stands on the area's edge
        is seen whole.
        """
        left, top, right, bottom = self.part
        x, y = left - overlap, top - overlap
        around = Window(x, y, right + overlap - x, bottom + overlap - y)
        found = windows(self.width, self.height, size, overlap, around, grid, phase)
        return found, np.concatenate([np.zeros(0, np.int64), *self._among(found)])

    def squares(self, side: int) -> Iterator[tuple[int, int]]:
        """Top left pixels, multiples of `side`, of squares in the raster whose centre lies in the area."""
        left, top, right, bottom = self.part
        columns = np.arange(left // side * side, min(right, self.width - side + 1), side)
        for y in range(top // side * side, min(bottom, self.height - side + 1), side):
            inside = shapely.contains_xy(self.shape, columns + side / 2, np.full(len(columns), y + side / 2))
            yield from ((int(x), y) for x in columns[inside])

    def keeps(self, masks: RleMasks) -> NDArray[np.bool_]:
        """(n,) which instances are written: those whose polygon has its point on the surface in the area.

        The point is Shapely's `point_on_surface`, inside the mask whatever its shape. Of areas that touch but
        do not overlap each instance belongs to one, or to both where its point is exactly on the border.
        """
        points = shapely.point_on_surface(pixel_polygons(masks))
        kept: NDArray[np.bool_] = shapely.covers(self.shape, points)
        return kept

    def _among(self, grid: Grid) -> Iterator[NDArray[np.int64]]:
        """Numbers of the windows that share more than an edge with the area."""
        lefts, tops = np.array(grid.lefts), np.array(grid.tops)
        for begin in range(0, len(grid), _BATCH):
            numbers = np.arange(begin, min(begin + _BATCH, len(grid)))
            places = np.array([grid.place(number) for number in numbers.tolist()])
            x, y = lefts[places[:, 1]], tops[places[:, 0]]
            # Shrunk by a hair: a window beside the area only touches it.
            boxes = shapely.box(x + 0.01, y + 0.01, x + grid.size - 0.01, y + grid.size - 0.01)
            yield numbers[shapely.intersects(self.shape, boxes)]


def read_area(data: bytes, name: str) -> Area:
    """The polygons of a GeoJSON or GeoPackage file, united.

    `name` is the file's, for messages. A GeoJSON without a `crs` member is longitude and latitude, as the
    standard says.

    Raises ValueError, naming the file and what to do, for anything without a polygon, and for degrees that
    are none.
    """
    refuse_shapefile(data, name)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data):,} bytes; at most {MAX_BYTES:,} are read")
        shapes, named = read_geopackage(data) if data.startswith(SIGNATURE) else _read_geojson(data)
        crs = crs_name(named or DEGREES)
        if CRS.from_user_input(crs).geodetic_crs is None:
            raise ValueError("its CRS says nothing of where on Earth it lies")
        polygons = _polygons(shapes)
        wrong = no_degrees(polygons, name, crs, named=bool(named))
        shape = shapely.union_all([shapely.make_valid(polygon) for polygon in polygons])
    except _NO_AREA as error:
        raise ValueError(f"{name} is no area of interest: {str(error)[:300]}; give GeoJSON or GPKG") from None
    if wrong is not None:
        raise wrong
    if not shape.area > 0:
        raise ValueError(f"{name} holds no polygon; an area of interest needs one")
    return Area(shape, crs)


def _polygons(shapes: Iterable[Any]) -> list[Any]:
    """The polygons among shapes. Raises ValueError for one without end, ShapelyError."""
    polygons = [shapely.force_2d(shape) for shape in shapes if shapely.get_dimensions(shape) == 2]
    if not all(map(_finite, polygons)):
        raise ValueError("it holds coordinates that are no finite numbers")
    return polygons


def _finite(shape: Any) -> bool:
    return bool(np.isfinite(shapely.get_coordinates(shape)).all())


def _read_geojson(data: bytes) -> tuple[list[Any], str]:
    """Its shapes, and the CRS that it names, or none."""
    document, crs = read_geojson(data)
    return [shapely.from_geojson(json.dumps(geometry)) for geometry in _geometries(document)], crs


def _geometries(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document["type"] == "FeatureCollection":
        for feature in document["features"]:
            yield from _geometries(feature)
    elif document["type"] == "Feature":
        if document["geometry"] is not None:
            yield document["geometry"]
    else:
        yield document
