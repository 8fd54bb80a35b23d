"""The scale a raster is segmented at: the overview, or the fraction of one, that comes to a resolution."""

from __future__ import annotations

from pipeline.geo.georef import Georef
from pipeline.geo.reader import Raster, View

_SAME = 0.01
"""Scales closer than this are taken for one: pixels are then copied, not computed."""
MOST_ENLARGED = 8.0


def choose_view(raster: Raster, resolution: float | None) -> View:
    """The raster at `resolution` metres a pixel, or at its own scale for None.

    Metres are those on the ground in the raster's middle. An overview of that scale, to one hundredth, is
    read as it is; else the next finer one is averaged, or the raster itself interpolated where it is coarser.

    Raises ValueError for a raster without georeference, and where it is over eight times too coarse.
    """
    header = raster.header
    if resolution is None:
        return raster.view
    if header.georef is None:
        raise ValueError("`resolution` is in metres a pixel, and the raster does not say where it lies")
    own = header.georef.metres(header.width, header.height)
    ratio = resolution / own
    if not ratio >= 1 / MOST_ENLARGED:
        raise ValueError(
            f"`resolution` asks for {resolution:g} m a pixel; the raster has {own:.3g}, "
            f"and is enlarged at most {MOST_ENLARGED:g} times"
        )
    finer = [level for level, factor in enumerate(header.factors) if factor <= ratio * (1 + _SAME)]
    level = max(finer, key=lambda at: header.factors[at], default=None)
    width, height = (header.width, header.height) if level is None else raster.level_size(level)
    shrink = ratio * width / header.width
    if abs(shrink - 1) <= _SAME:
        shrink = 1.0
    return View(max(1, round(width / shrink)), max(1, round(height / shrink)), level, width, height)


def view_georef(raster: Raster, view: View) -> Georef | None:
    """Where a view lies: the transform from its pixels to the ground."""
    header = raster.header
    if header.georef is None:
        return None
    return header.georef.scaled(header.width / view.width, header.height / view.height)
