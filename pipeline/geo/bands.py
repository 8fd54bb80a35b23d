"""From a raster's bands to the 8-bit RGB that the model reads: which bands, what is black and white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geo.header import RasterHeader, check_bands
from pipeline.geo.reader import Pixels, Raster
from pipeline.geo.sampling import sample
from pipeline.pixels import Rgb

PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Stretch:
    """The samples that become 0 and 255, a pair a band; the line between them is straight.

    `low` over `high` inverts. Plain values of the whole raster, for the plan: never measured in a window.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Colours:
    """How a raster becomes RGB. Plain values, for the plan."""

    bands: tuple[int, ...]
    """Red, green and blue, or the one that is grey; counted from 1."""
    stretch: Stretch | None
    """None: 8-bit samples as they are, or a palette's colours."""


def choose_colours(
    raster: Raster,
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = PERCENTILES,
    always: bool = False,
) -> Colours:
    """Decide on a raster's bands and stretch; reads samples of it only where percentiles are needed.

    Without `bands` those declared red, green and blue, else the first three, else the first as grey. 8-bit
    samples stay as they are unless `always`; samples of fewer bits are widened; others are stretched between
    `percentiles` of the valid ones.

    Raises ValueError for bands the raster has not, InputRejected and StoreError as `Raster`.
    """
    header = raster.header
    chosen = check_bands(header, None if bands is None else tuple(bands))
    if raster.palette(chosen[0]) is not None:
        return Colours(chosen, None)
    if not always and all(header.dtypes[band - 1] == "uint8" for band in chosen):
        return Colours(chosen, _of_depth(header, len(chosen)))
    found = sample(raster, chosen)
    stretch = _whole_range(header, chosen) if not found.size else _between(found, percentiles)
    return Colours(chosen, _inverted(stretch) if header.white_is_zero else stretch)


def _of_depth(header: RasterHeader, bands: int) -> Stretch | None:
    """Of whole bytes: None where they are as they should be."""
    top = float((1 << min(header.bits, 8)) - 1)
    if top == 255 and not header.white_is_zero:
        return None
    stretch = Stretch((0.0,) * bands, (top,) * bands)
    return _inverted(stretch) if header.white_is_zero else stretch


def _between(samples: NDArray[Any], percentiles: tuple[float, float]) -> Stretch:
    low, high = np.percentile(samples.astype(np.float64), percentiles, axis=1)
    return Stretch(tuple(low.tolist()), tuple(high.tolist()))


def _whole_range(header: RasterHeader, bands: Sequence[int]) -> Stretch:
    """Where no valid sample was met: 0 to the most that the type holds, 1 for floats."""
    tops = []
    for band in bands:
        dtype = np.dtype(header.dtypes[band - 1])
        tops.append(1.0 if dtype.kind == "f" else float(min(np.iinfo(dtype).max, (1 << header.bits) - 1)))
    return Stretch((0.0,) * len(tops), tuple(tops))


def _inverted(stretch: Stretch) -> Stretch:
    return Stretch(stretch.high, stretch.low)


def to_rgb(pixels: Pixels, colours: Colours, palette: NDArray[np.uint8] | None = None) -> Rgb:
    """A window's samples as uint8 (height, width, 3), contiguous; what is not valid is black.

    `palette` is `Raster.palette` of the band.
    """
    samples = pixels.samples
    if palette is not None:
        rgb: Rgb = palette[samples[0]]
    else:
        rgb = np.empty((*samples.shape[1:], 3), np.uint8)
        for channel in range(3):
            band = channel if len(samples) == 3 else 0
            if channel and len(samples) == 1:
                rgb[..., channel] = rgb[..., 0]
            else:
                rgb[..., channel] = _levels(samples[band], colours.stretch, band)
    rgb[~pixels.valid] = 0
    return rgb


def _levels(band: NDArray[Any], stretch: Stretch | None, number: int) -> NDArray[np.uint8]:
    if stretch is None:
        return band
    low, high = stretch.low[number], stretch.high[number]
    if band.dtype.kind in "ui" and band.dtype.itemsize <= 2:
        # Every value once: far fewer than the pixels of a window.
        unsigned = np.dtype(f"u{band.dtype.itemsize}")
        values = np.arange(1 << 8 * band.dtype.itemsize, dtype=unsigned).view(band.dtype)
        levels: NDArray[np.uint8] = _scaled(values, low, high)[band.view(unsigned)]
        return levels
    return _scaled(band, low, high)


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    span = high - low or 1.0  # of one value: that is black, what is above it white
    with np.errstate(invalid="ignore", over="ignore"):
        levels = (values.astype(np.float64) - low) * (255 / span)
        clipped: NDArray[np.uint8] = np.nan_to_num(np.clip(np.rint(levels), 0, 255), nan=0.0).astype(np.uint8)
    return clipped
