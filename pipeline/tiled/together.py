"""Stitches the rasters of one unit: each by itself, or as one where they overlap on the ground."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from condinst import rle
from condinst.instances import Instances, RleMasks
from pipeline.geo.aoi import RasterArea
from pipeline.geo.polygons import on_map
from pipeline.geo.windows import inside
from pipeline.records import Window
from pipeline.stitch import Stitcher, Windows
from pipeline.stitch.fragments import Fragments, moved, pick
from pipeline.stitch.ground import duplicates
from pipeline.stitch.regions import Ints
from pipeline.tiled.found import Seen, WindowsFound
from pipeline.tiled.frozen import FrozenRaster
from pipeline.tiled.groups import footprints
from pipeline.tiled.nodata import tight
from pipeline.tiled.spool import Spool
from pipeline.watchdog import watching

STEP_SECONDS = 3600.0
"""A step of stitching, a window's or a batch's, that lasts longer ends its process."""


@dataclass(frozen=True)
class Part:
    """A raster of a unit."""

    number: int
    """Its place in the stitch shard."""
    raster: FrozenRaster
    seen: Sequence[Seen]
    area: RasterArea | None = None
    offset: tuple[int, int] = (0, 0)
    """Where its top left pixel lies on the unit's grid."""


def step(what: str, shard: str) -> AbstractContextManager[None]:
    """Around a step of a stitch shard, which is to end; what it is made of is not read in it."""
    return watching(f"{what} of shard {shard}", STEP_SECONDS)


def stitch_into(spool: Spool, parts: Sequence[Part], windows: WindowsFound, shard: str = "") -> None:
    """Stitch rasters of one grid, and put what is settled into the spool in each raster's own pixels."""
    seen = [(at, window) for at, part in enumerate(parts) for window in part.seen if window.done]
    if not seen:
        return
    grid = Windows.of(
        [_on_grid(window.window, parts[at]) for at, window in seen],
        [at for at, _ in seen],
        [window.full for _, window in seen],
    )
    stitcher = Stitcher(grid)
    number = 0
    for part in parts:
        for window, found in zip(part.seen, windows.instances(part.raster), strict=True):
            if window.done:
                with step(f"stitching raster {part.number}", shard):
                    _put(spool, parts, grid, stitcher.add(number, found))
                number += 1
    with step(f"stitching raster {parts[-1].number}", shard):
        _put(spool, parts, grid, stitcher.finish())


def _put(spool: Spool, parts: Sequence[Part], grid: Windows, settled: Fragments) -> None:
    owners = grid.raster[settled.window]
    for at in np.unique(owners).tolist():
        part = parts[at]
        found = moved(pick(settled.found, owners == at), -part.offset[0], -part.offset[1])
        if len(parts) > 1:
            found = inside_raster(found, part.raster.width, part.raster.height)
        if part.area is not None:
            found = pick(found, part.area.keeps(found.masks))
        spool.add(found, np.full(len(found), part.number))


def _on_grid(window: Window, part: Part) -> Window:
    """Where a window lies on the unit's grid; what is padded beyond its raster it did not see."""
    place = inside(window, part.raster.width, part.raster.height)
    return Window(place.x + part.offset[0], place.y + part.offset[1], place.width, place.height)


def inside_raster(found: Instances, width: int, height: int) -> Instances:
    """Instances without their pixels beyond the raster: those lie in another one's rows of pixels."""
    masks, boxes = found.masks, found.boxes.copy()
    right, bottom = masks.x + masks.width, masks.y + masks.height
    beyond = np.flatnonzero((masks.x < 0) | (masks.y < 0) | (right > width) | (bottom > height))
    if not len(beyond):
        return found
    parts = [masks[slice(at, at + 1)] for at in range(len(found))]
    for at in beyond.tolist():
        parts[at] = _cropped(parts[at], width, height)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clip(0, width), boxes[:, 1::2].clip(0, height)
    kept = RleMasks.concatenate(parts)
    return pick(Instances(boxes, found.scores, found.classes, kept), kept.area > 0)


def _cropped(mask: RleMasks, width: int, height: int) -> RleMasks:
    pixels = rle.decode(mask.counts[0], int(mask.height[0]), int(mask.width[0]))
    x, y = int(mask.x[0]), int(mask.y[0])
    left, top = max(0, -x), max(0, -y)
    pixels = pixels[top : max(top, height - y), left : max(left, width - x)]
    return tight(pixels, x + left, y + top) if pixels.any() else RleMasks.empty(1)


def worse(spool: Spool, rasters: Mapping[int, FrozenRaster], crs: str, shard: str = "") -> NDArray[np.bool_]:
    """(all instances in the spool,) which of them another raster of the unit shows better.

    For rasters whose grids are not one; only what reaches where another raster looked is compared, and held
    in memory.
    """
    numbers = sorted(rasters)
    grounds = footprints([rasters[number] for number in numbers], crs)
    tree = shapely.STRtree(grounds)
    shapes, classes, owners, places = [], [], [], []
    for begin, found, owner in _enumerated(spool):
        for at, number in enumerate(numbers):
            mine = np.flatnonzero(owner == number)
            georef = rasters[number].georef
            if not len(mine) or georef is None:
                continue
            with step(f"comparing raster {number}", shard):
                shape = on_map(found.masks[mine], georef, crs).geometry
                near, ground = tree.query(shape, predicate="intersects")
            shared = np.unique(near[ground != at])
            shapes.append(shape[shared])
            classes.append(found.classes[mine][shared])
            owners.append(np.full(len(shared), at))
            places.append(begin + mine[shared])
    left_out = np.zeros(len(spool), bool)
    if places:
        with step("comparing rasters", shard):
            compared = duplicates(
                np.concatenate(shapes), np.concatenate(classes), np.concatenate(owners), grounds
            )
        left_out[np.concatenate(places)[compared]] = True
    return left_out


def _enumerated(spool: Spool) -> Iterator[tuple[int, Instances, Ints]]:
    begin = 0
    for found, owner in spool.all():
        yield begin, found, owner
        begin += len(found)
