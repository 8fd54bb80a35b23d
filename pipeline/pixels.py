"""The rules that turn whatever a file stores into 8-bit RGB. `docs/inputs.md` states them for users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.records import InputRejected, Status

Rgb = NDArray[np.uint8]
"""An image: uint8 (height, width, 3), red first, contiguous."""

_CLIPPED = 0.005


def upright(rgb: Rgb, orientation: int) -> Rgb:
    """`rgb` as EXIF `orientation` (1 to 8) says it is to be looked at, contiguous."""
    if orientation >= 5:
        rgb = rgb.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def black_out(rgb: Rgb, valid: NDArray[np.bool_]) -> Rgb:
    """`rgb` with black where `valid` (height, width) is false; written in place.

    Raises:
        InputRejected: `nodata`, where no pixel is valid.
    """
    if not valid.any():
        raise InputRejected(
            Status.NODATA, "nothing but nodata: the file declares every pixel transparent or nodata"
        )
    rgb[~valid] = 0
    return rgb


def eight_bits(
    samples: NDArray[Any], bits: int | None = None, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Samples (bands, height, width) of any real type as uint8: the top eight of their significant bits.

    `bits` is the declared depth of integer samples. Without it the depth is the smallest, of 8 or
    more, that holds all but 0.5 % of the valid samples, one for all bands: 12-bit data in 16-bit words
    keep their contrast, a few glints do not darken the rest, and black stays black. What is brighter
    becomes 255. Fewer than 8 bits are widened to the full range. Negative samples and those that are
    no finite number become 0. Floating samples that hold no more than 1 by the same measure are 0 to 1.
    """
    if samples.dtype == np.uint8 and (bits is None or bits >= 8):
        return samples
    to_level = _to_level(samples, bits, valid)
    levels = np.empty(samples.shape, np.uint8)
    for band, level in zip(samples, levels, strict=True):  # band by band: whole copies would be the peak
        np.copyto(level, np.clip(to_level(band), 0, 255), casting="unsafe")
    return levels


def _to_level(
    samples: NDArray[Any], bits: int | None, valid: NDArray[np.bool_] | None
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What takes one band to the scale of 0 to 255, before it is cut to that range."""
    if bits is not None and bits < 8:
        return lambda band: band.astype(np.uint16) * 255 // ((1 << bits) - 1)
    floating = samples.dtype.kind == "f"
    if floating and _holds_most(samples, valid, 1):
        return lambda band: np.rint(_finite(band) * 255.0)
    depths = (depth for depth in range(8, 1024) if _holds_most(samples, valid, 2**depth - 1))
    shift = (bits or next(depths, 1024)) - 8
    if floating:
        return lambda band: np.floor(_finite(band) / 2.0**shift)
    return lambda band: band >> shift


def _holds_most(samples: NDArray[Any], valid: NDArray[np.bool_] | None, top: int) -> bool:
    """Whether all but a few of the valid samples are at most `top`, in integers."""
    over = 0
    for band in samples:
        with np.errstate(over="ignore"):  # a bound beyond the type's range is infinite, as it should be
            above = band > top if top <= 1 else band >= top + 1
        over += int(np.count_nonzero(above if valid is None else above & valid))
    valid_pixels = samples[0].size if valid is None else np.count_nonzero(valid)
    return bool(over <= _CLIPPED * len(samples) * valid_pixels)


def _finite(band: NDArray[Any]) -> NDArray[Any]:
    finite: NDArray[Any] = np.nan_to_num(band, nan=0, posinf=0, neginf=0)
    return finite


def from_pillow(image: Image.Image) -> Rgb:
    """A loaded Pillow image as RGB: transparent pixels black, all others in their full colour.

    Raises:
        InputRejected: `nodata`, where every pixel is transparent.
    """
    if image.mode.startswith("I;16"):
        return _from_grey16(np.asarray(image, dtype=np.uint16), image.info.get("transparency"))
    if not image.has_transparency_data:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    rgba = np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
    # Alpha is not blended: what users of aerial data mean by it is "no data here", and a fourth band
    # that is infrared is often labelled alpha.
    return black_out(np.array(rgba[..., :3], order="C"), rgba[..., 3] > 0)


def _from_grey16(samples: NDArray[np.uint16], transparent: object) -> Rgb:
    rgb = np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return black_out(rgb, samples != transparent) if isinstance(transparent, int) else rgb
