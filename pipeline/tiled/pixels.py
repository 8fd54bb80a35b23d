"""The pixels of one window of a raster as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geo.bands import to_rgb
from pipeline.geo.reader import Raster
from pipeline.pixels import Rgb
from pipeline.records import InputRejected, Status, Window
from pipeline.tiled.frozen import FrozenRaster


@dataclass(frozen=True)
class WindowPixels:
    """One window, padded where the raster is smaller."""

    rgb: Rgb
    valid: NDArray[np.bool_] | None
    """(height, width) false for nodata and beyond the raster; None where all is data."""


def window_pixels(raster: Raster, frozen: FrozenRaster, window: Window) -> WindowPixels:
    """Read a window as the plan says. Raises InputRejected, `nodata` where nothing in it is data."""
    colours = frozen.colours
    pixels = raster.read(colours.bands, window, frozen.view)
    if not pixels.valid.any():
        raise InputRejected(Status.NODATA, "nothing but nodata")
    rgb = to_rgb(pixels, colours, raster.palette(colours.bands[0]))
    return WindowPixels(rgb, None if pixels.valid.all() else pixels.valid)
