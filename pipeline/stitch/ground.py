"""Rasters that overlap on the ground: on one grid of pixels, or on grids of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.stitch.match import Pairs, Rules, mutual
from pipeline.stitch.merge import group
from pipeline.stitch.regions import Ints

Transform = Sequence[float]
"""(a, b, c, d, e, f): a pixel's x = a column + b row + c, y = d column + e row + f, as rasterio has it."""
Geometries = NDArray[np.object_]

_ALIGNED = 0.05


def grid_offset(reference: Transform, other: Transform, size: tuple[int, int]) -> tuple[int, int] | None:
    """Where the top left pixel of `other` lies on the grid of `reference`, as (x, y) in pixels.

    None where the grids differ by more than a twentieth of a pixel anywhere in `other`, whose (height, width)
    is `size`: then instances are compared on the ground (`duplicates`).
    """
    one, two = _matrix(reference), _matrix(other)
    height, width = size
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], np.float64)
    placed = np.linalg.solve(one, two @ corners)[:2]
    x, y = np.rint(placed[:, 0]).astype(int).tolist()
    if np.abs(placed - corners[:2] - [[x], [y]]).max() > _ALIGNED:
        return None
    return x, y


def duplicates(
    shapes: Geometries,
    classes: Ints,
    raster: Ints,
    footprints: Geometries,
    rules: Rules | None = None,
) -> NDArray[np.bool_]:
    """(n,) which instances another raster shows better, of rasters whose grids are not one.

    `shapes` (n,) are the instances' polygons, valid and in one CRS; `classes` and `raster` (n,) theirs;
    `footprints` are the rasters' outlines, in that CRS. Instances are paired as fragments are: by IoU or
    containment within what both rasters saw. Of each group stays the one farthest from its raster's outline,
    then the larger one, then the one of the first raster. A thing that every raster cuts stays as its largest
    part: shapes of different grids are not united. The order of instances decides nothing but exact ties.
    """
    rules = rules or Rules()
    groups = group(raster, mutual(_agreeing(shapes, classes, raster, footprints, rules), raster, rules))
    away = shapely.distance(shapely.boundary(footprints)[raster], shapes)
    order = np.lexsort((raster, -shapely.area(shapes), -away, groups.label))
    worse = np.ones(len(shapes), bool)
    worse[order[np.unique(groups.label[order], return_index=True)[1]]] = False
    return worse


def _agreeing(shapes: Geometries, classes: Ints, raster: Ints, footprints: Geometries, rules: Rules) -> Pairs:
    i, j = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (i < j) & (raster[i] != raster[j]) & (classes[i] == classes[j])
    i, j = i[apart].astype(np.int64), j[apart].astype(np.int64)
    one = shapely.intersection(shapes[i], footprints[raster[j]])
    other = shapely.intersection(shapes[j], footprints[raster[i]])
    shared = shapely.area(shapely.intersection(one, other))
    first, second = shapely.area(one), shapely.area(other)
    tiny = np.finfo(np.float64).tiny
    iou = shared / np.maximum(first + second - shared, tiny)
    of_i, of_j = shared / np.maximum(first, tiny), shared / np.maximum(second, tiny)
    inside = np.maximum(of_i, of_j)
    order = np.lexsort((j, i, -inside, -iou))
    enough = (iou >= rules.iou) | (inside >= rules.containment)
    return Pairs(i, j, iou, of_i, of_j).take(order[enough[order]])


def _matrix(transform: Transform) -> NDArray[np.float64]:
    return np.array([*transform[:6], 0, 0, 1], np.float64).reshape(3, 3)
