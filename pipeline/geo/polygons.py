"""Masks as polygons on the map: along their pixels' edges, with holes, valid, many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from condinst.instances import RleMasks
from pipeline.geo.georef import Floats, Georef, transformer
from pipeline.geo.rings import Ints, Rings, trace

Shapes = NDArray[np.object_]
"""Shapely geometries, None where there is none."""

_BATCH = 4096
"""Masks traced together."""
_EDGE = 64
"""Stretches that an edge of a footprint is divided into before it is projected."""


@dataclass(frozen=True)
class OnMap:
    """n instances on the map."""

    geometry: Shapes
    """Polygons and multipolygons, east before north, outlines counterclockwise; None without a pixel."""
    bounds: Floats
    """(n, 4) least and greatest: west, south, east, north; NaN where there is no geometry."""
    area: Floats
    """(n,) square metres on the ellipsoid, whatever the map distorts."""

    @property
    def wkb(self) -> NDArray[np.object_]:
        """(n,) the geometries as ISO WKB in bytes, None where there is none."""
        found: NDArray[np.object_] = shapely.to_wkb(self.geometry, flavor="iso")
        return found


def on_map(masks: RleMasks, georef: Georef, target: str | None = None) -> OnMap:
    """The masks of one image as polygons in its CRS, or in the CRS `target`.

    Corners are exactly those of the mask's pixels; in another CRS, the straight lines between them are
    straight there. Parts that meet in a corner alone are polygons of their own.

    Raises ValueError where a mask has no place in `target`, or its RLE does not fit its crop.
    """
    parts = [
        _project(masks[slice(at, at + _BATCH)], georef, target) for at in range(0, max(len(masks), 1), _BATCH)
    ]
    geometry: Shapes = np.concatenate(parts)
    middle = masks.x + masks.width / 2, masks.y + masks.height / 2
    return OnMap(geometry, shapely.bounds(geometry), masks.area * georef.pixel_areas(*middle))


def pixel_polygons(masks: RleMasks) -> Shapes:
    """The masks as polygons in image pixels, y downward."""
    rings = trace(masks)
    return _assembled(rings, rings.x.astype(np.float64), rings.y.astype(np.float64), len(masks))


def reprojected(shapes: Shapes, crs: str, target: str) -> Shapes:
    """Polygons of one CRS in another, valid; None where nothing of them has a place there.

    Raises ValueError where there is no way from one to the other.
    """
    change = transformer(crs, target)
    return mended(shapely.transform(shapes, lambda at: np.column_stack(change.transform(*at.T))))


def mended(shapes: Shapes) -> Shapes:
    """Polygons whose corners were moved, valid again and outlines counterclockwise; None where none is left.

    Edges are bent by a projection, and drawn straight: long ones may then cross short ones beside them.
    """
    shapes = shapes.copy()
    corners, owner = shapely.get_coordinates(shapes, return_index=True)
    shapes[owner[~np.isfinite(corners).all(axis=1)]] = None
    broken = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    shapes[broken] = [_polygonal(shape) for shape in shapely.make_valid(shapes[broken])]
    return np.asarray(shapely.orient_polygons(shapes), dtype=np.object_)


def footprint(georef: Georef, width: int, height: int, target: str | None = None) -> Any:
    """The ground a raster of that size covers, as a polygon in its CRS or in `target`.

    Raises ValueError where it has no place there.
    """
    frame = shapely.segmentize(shapely.box(0, 0, width, height), max(width, height) / _EDGE)
    corners = shapely.get_coordinates(frame)
    east, north = _coordinates(corners[:, 0], corners[:, 1], georef, target)
    return shapely.make_valid(shapely.polygons(np.column_stack([east, north])))


def _project(masks: RleMasks, georef: Georef, target: str | None) -> Shapes:
    rings = trace(masks)
    east, north = _coordinates(rings.x, rings.y, georef, target)
    shapes = _assembled(rings, east, north, len(masks))
    if target is not None and target != georef.crs:
        return mended(shapes)
    return np.asarray(shapely.orient_polygons(shapes), dtype=np.object_)


def _coordinates(
    x: NDArray[Any], y: NDArray[Any], georef: Georef, target: str | None
) -> tuple[Floats, Floats]:
    east, north = georef.ground(x.astype(np.float64), y.astype(np.float64))
    if target is None or target == georef.crs:
        return east, north
    east, north = transformer(georef.crs, target).transform(east, north)
    if not (np.isfinite(east).all() and np.isfinite(north).all()):
        raise ValueError(
            f"a place in {georef.crs[:80]} cannot be given in {target[:80]}: it lies too far off"
        )
    return east, north


def _assembled(rings: Rings, east: Floats, north: Floats, masks: int) -> Shapes:
    """One geometry a mask from its rings, whose corners are at `east` and `north`."""
    shapes: Shapes = np.full(masks, None, dtype=np.object_)
    if not len(rings.mask):
        return shapes
    shell = _shells(rings)
    order = np.lexsort((rings.area < 0, shell))  # each outline, then its holes
    lines = shapely.linearrings(
        np.column_stack([east, north]), indices=np.repeat(np.arange(len(rings.mask)), np.diff(rings.bounds))
    )
    polygon, number = np.unique(shell[order], return_inverse=True)
    polygons = shapely.polygons(lines[order], indices=number)
    owner, first, times = np.unique(rings.mask[polygon], return_index=True, return_counts=True)
    shapes[owner] = polygons[first]
    several = np.repeat(times, times) > 1
    if several.any():
        owner, number = np.unique(rings.mask[polygon][several], return_inverse=True)
        shapes[owner] = shapely.multipolygons(polygons[several], indices=number)
    return shapes


def _shells(rings: Rings) -> Ints:
    """(k,) the outline each ring belongs to; an outline to itself."""
    shell = np.arange(len(rings.mask))
    outlines, holes = np.flatnonzero(rings.area > 0), np.flatnonzero(rings.area < 0)
    first = np.searchsorted(rings.mask[outlines], np.arange(rings.mask[-1] + 2))
    owner = rings.mask[holes]
    shell[holes] = outlines[first[owner]]
    doubtful = holes[first[owner + 1] - first[owner] > 1]
    if len(doubtful):
        shell[doubtful] = _around(
            rings, outlines[np.isin(rings.mask[outlines], rings.mask[doubtful])], doubtful
        )
    return shell


def _around(rings: Rings, outlines: Ints, holes: Ints) -> Ints:
    """The outline of the pixels at each hole's edge: the smallest of its mask that such a pixel lies in."""
    # Masks are moved apart, so that only outlines of the hole's own are met.
    away = (rings.x.max() + 1 - min(rings.x.min(), 0)) * rings.mask
    x, y = rings.x + np.repeat(away, np.diff(rings.bounds)), rings.y
    begin = rings.bounds[holes]
    down = y[begin + 1] > y[begin]  # along a ring the mask lies on the left
    inside = shapely.points(x[begin] + np.where(down, 0.5, -0.5), np.minimum(y[begin], y[begin + 1]) + 0.5)
    corners = np.concatenate([np.arange(*rings.bounds[ring : ring + 2]) for ring in outlines])
    number = np.repeat(np.arange(len(outlines)), np.diff(rings.bounds)[outlines])
    tree = shapely.STRtree(
        shapely.polygons(shapely.linearrings(np.column_stack([x, y])[corners], indices=number))
    )
    hole, outline = tree.query(inside, predicate="within")
    order = np.lexsort((rings.area[outlines[outline]], hole))
    _, smallest = np.unique(hole[order], return_index=True)
    found: Ints = outlines[outline[order][smallest]]
    return found


def _polygonal(shape: Any) -> Any:
    """The polygons of a shape that was made valid: lines and points have no pixels in them."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    if not len(polygons):
        return None
    return polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)
