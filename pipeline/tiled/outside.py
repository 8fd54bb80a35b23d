"""What is told of rasters that all lie outside their areas of interest: where either lies, and why."""

from __future__ import annotations

from collections.abc import Sequence

import shapely
from pyproj import CRS

from pipeline.geo.georef import Bounds, extent
from pipeline.sources import InputSource
from pipeline.tiled.areas import Areas
from pipeline.tiled.frozen import FrozenRaster

_SHOWN = 3
"""Areas that are told of."""


class Outside:
    """The extents of such rasters, by input, each in the coordinates of its area."""

    def __init__(self, areas: Areas) -> None:
        self._areas = areas
        self._extents: dict[int, Bounds] = {}
        self._swapped: set[int] = set()

    def add(self, source: int, raster: FrozenRaster) -> None:
        """Count in a raster of an input that has an area, and that the raster lies outside of."""
        assert raster.georef is not None
        area = self._areas[source]
        bounds = extent(raster.georef, raster.width, raster.height, area.crs)
        if bounds is None:
            return
        west, south, east, north = bounds
        if shapely.intersects(area.shape, shapely.box(south, west, north, east)):
            self._swapped.add(source)
        w, s, e, n = self._extents.get(source, bounds)
        self._extents[source] = min(w, west), min(s, south), max(e, east), max(n, north)

    def told(self, sources: Sequence[InputSource]) -> str:
        """A line an area: its file, where it and the rasters lie, and what to do."""
        return "\n".join(self._line(n, str(sources[n].area)) for n in list(self._areas)[:_SHOWN])

    def _line(self, source: int, file: str) -> str:
        area = self._areas[source]
        system = CRS.from_user_input(area.crs)
        name = area.crs if len(area.crs) < 40 else system.name
        digits = 4 if system.is_geographic else 0
        said = f"{file} spans {_spans(area.shape.bounds, digits)} ({name})"
        if source not in self._extents:
            return f"{said}, and the images cannot be brought into these coordinates; check the area's crs"
        said += f", the images {_spans(self._extents[source], digits)}"
        if source in self._swapped:
            return f"{said}; with x and y swapped they meet: x is longitude or east, and comes first"
        return f"{said}; check `area`, and the crs that it names"


def _spans(bounds: Bounds, digits: int) -> str:
    west, south, east, north = (f"{value:.{digits}f}" for value in bounds)
    return f"x {west} to {east}, y {south} to {north}"
