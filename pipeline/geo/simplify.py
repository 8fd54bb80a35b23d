"""Outlines with fewer corners: what runs along pixels' edges is a staircase wherever it is not straight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.geo.georef import Floats
from pipeline.geo.polygons import OnMap, Shapes


def simplified(shapes: Shapes, tolerance: float | Floats) -> Shapes:
    """Polygons that stray at most `tolerance`, a number or (n,), from (n,) given ones, and stay valid.

    Douglas and Peucker's algorithm (Cartographica 10(2), 1973), which takes corners away and adds none; a
    ring keeps its direction, a part and a hole stay one. None stays None.
    """
    found: Shapes = shapely.simplify(shapes, tolerance, preserve_topology=True)
    # GEOS takes a ring's first corner away in a step of its own, so that the two may add up to more.
    for smaller in (np.divide(tolerance, 2), 0.0):
        far = shapely.hausdorff_distance(found, shapes) > tolerance
        found = np.where(far, shapely.simplify(shapes, smaller, preserve_topology=True), found)
    return found


def simplified_on_map(found: OnMap, areas: NDArray[np.int64], pixels: float) -> OnMap:
    """The same of n instances on a map, by so many of their images' pixels; `area` stays that of the masks.

    `areas` (n,) are the masks' pixels, by which a pixel's side on the map is found.
    """
    side = np.sqrt(np.nan_to_num(shapely.area(found.geometry)) / np.maximum(areas, 1))
    shapes = simplified(found.geometry, pixels * side)
    return replace(found, geometry=shapes, bounds=shapely.bounds(shapes))


def corners(shapes: Shapes) -> int:
    """How many corners outlines have together, with each ring's first once more at its end."""
    return int(shapely.get_num_coordinates(shapes).sum())
