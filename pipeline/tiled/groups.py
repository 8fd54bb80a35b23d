"""Which rasters overlap on the ground, and so are stitched together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from pipeline.geo.polygons import Shapes, footprint
from pipeline.stitch.ground import grid_offset
from pipeline.tiled.frozen import FrozenRaster

_LEAST = 1e-6
"""Share of the smaller footprint below which two rasters only touch: a seam of rounding is no overlap."""


def groups(rasters: Sequence[FrozenRaster], crs: str) -> list[list[int]]:
    """Numbers of the rasters, those in one list that overlaps lead from one to the other.

    Lists by their first member, members rising. A raster that says not where it lies is by itself.
    """
    shapes = footprints(rasters, crs)
    label = list(range(len(rasters)))

    def root(at: int) -> int:
        while label[at] != at:
            label[at] = label[label[at]]
            at = label[at]
        return at

    i, j = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    i, j = i[i < j], j[i < j]
    shared = shapely.area(shapely.intersection(shapes[i], shapes[j]))
    least = _LEAST * np.minimum(shapely.area(shapes[i]), shapely.area(shapes[j]))
    for one, other in zip(i[shared > least].tolist(), j[shared > least].tolist(), strict=True):
        one, other = sorted((root(one), root(other)))
        label[other] = one
    members: dict[int, list[int]] = {}
    for at in range(len(rasters)):
        members.setdefault(root(at), []).append(at)
    return list(members.values())


def footprints(rasters: Sequence[FrozenRaster], crs: str) -> Shapes:
    """The ground each raster covers, in the CRS; None where it does not say, or has no place there."""
    found: Shapes = np.full(len(rasters), None, dtype=np.object_)
    for at, raster in enumerate(rasters):
        if raster.status is None and (georef := raster.georef) is not None:
            try:
                found[at] = footprint(georef, raster.width, raster.height, crs)
            except ValueError:
                continue
    return found


def offsets(rasters: Sequence[FrozenRaster]) -> list[tuple[int, int]] | None:
    """Where rasters lie on the grid of the first; None where their grids are not one."""
    found = []
    first = rasters[0]
    for raster in rasters:
        if raster.crs is None or raster.crs != first.crs or not (raster.transform and first.transform):
            return None
        offset = grid_offset(first.transform, raster.transform, (raster.height, raster.width))
        if offset is None:
            return None
        found.append(offset)
    return found
