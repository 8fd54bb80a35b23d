"""The pixels of one window of a raster as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geo.bands import to_rgb
from pipeline.geo.reader import Raster
from pipeline.geo.views import view_georef
from pipeline.pixels import Rgb
from pipeline.records import InputRejected, Status, Window
from pipeline.tiled.frozen import FrozenRaster


@dataclass(frozen=True)
class WindowPixels:
    """What of one window lies in its raster."""

    rgb: Rgb
    valid: NDArray[np.bool_] | None
    """(height, width) false for nodata; None where all is data."""


@dataclass(frozen=True)
class Framed:
    """A window's pixels with a frame of its outermost ones, where it reaches beyond its raster."""

    rgb: Rgb
    valid: NDArray[np.bool_] | None
    """(height, width) false for nodata and on the frame; None where all is data."""
    left: int
    top: int
    """Width and height of the frame before the first pixel."""


def framed(pixels: WindowPixels, window: Window, multiple: int) -> Framed:
    """Pixels where they lie in their window, with edges that are multiples of `multiple`.

    What is missing on the right and at the bottom otherwise is left to the network's own padding.
    """
    height, width = pixels.rgb.shape[:2]
    left, top = max(0, -window.x), max(0, -window.y)
    right, bottom = -(left + width) % multiple, -(top + height) % multiple
    if not (left or top or right or bottom):
        return Framed(pixels.rgb, pixels.valid, 0, 0)
    around = ((top, bottom), (left, right))
    valid = np.ones((height, width), np.bool_) if pixels.valid is None else pixels.valid
    rgb: Rgb = np.pad(pixels.rgb, (*around, (0, 0)), mode="edge")
    return Framed(rgb, np.pad(valid, around), left, top)


def window_pixels(raster: Raster, frozen: FrozenRaster, window: Window) -> WindowPixels:
    """Read a window as the plan says.

    Raises InputRejected: `nodata` where nothing in it is data, `missing` where the raster is not laid out as
    it was when it was planned (a retry takes one that was mended since).
    """
    _demand_layout(raster, frozen)
    colours = frozen.colours
    pixels = raster.read(colours.bands, window, frozen.view)
    if not pixels.valid.any():
        raise InputRejected(Status.NODATA, "nothing but nodata")
    rgb = to_rgb(pixels, colours, raster.palette(colours.bands[0]))
    return WindowPixels(rgb, None if pixels.valid.all() else pixels.valid)


def _demand_layout(raster: Raster, frozen: FrozenRaster) -> None:
    header, view = raster.header, frozen.view
    size = (header.width, header.height) if view.level is None else raster.level_size(view.level)
    georef = view_georef(raster, view)
    if size != (view.level_width, view.level_height):
        other = f"{size[0]}x{size[1]} pixels, were {view.level_width}x{view.level_height}"
    elif (None if georef is None else georef.transform) != frozen.transform:
        other = "it lies elsewhere on the map"
    elif max(frozen.bands) > len(header.dtypes):
        other = f"{len(header.dtypes)} bands, of which number {max(frozen.bands)} was read"
    elif frozen.samples not in (None, samples := header.samples(frozen.bands[0])):
        other = f"its samples are {samples}, were {frozen.samples}"
    else:
        return
    raise InputRejected(
        Status.MISSING, f"changed since the plan ({other}); segment the new file with another output"
    )
