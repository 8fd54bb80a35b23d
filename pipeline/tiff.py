"""TIFF and GeoTIFF read whole through rasterio, once the header's own figures are found bearable."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile

from pipeline import tifftags
from pipeline.pixels import Rgb, black_out, eight_bits, from_pillow
from pipeline.records import InputRejected, Status
from pipeline.tifftags import Tags

# Most images are not georeferenced, and that is no news. A filter around each call would not be
# safe: the filters are the process's, and images are decoded in threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRIC_READ = (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB)
_NOT_READ = re.compile(
    "not (supported|configured|available|implemented)|[Uu]nsupported|[Cc]annot handle|missing codec"
)
_RGB_ORDER = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def decode_tiff(data: bytes, max_pixels: int) -> Rgb:
    """The first page of a TIFF as stored (not turned): complete, nodata and transparent pixels black.

    Raises:
        InputRejected: `corrupt`, `unsupported`, `too_large` or `nodata`.
    """
    tags = tifftags.read_tags(data)
    check_layout(tags)
    _check_size(tags, max_pixels)
    if tags.get(tifftags.PHOTOMETRIC, (1,))[0] == _CIELAB:
        # GDAL's conversion leaves out the step from the white of CIELab to that of sRGB: white turns yellow.
        with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
            image.load()
            return from_pillow(image)
    # A given name: a random one would end up in the reasons of rejected images.
    with MemoryFile(data, filename="image.tif") as file:
        try:
            with file.open(driver="GTiff", sharing=False) as source:
                return _read(source, tags)
        except RasterioError as error:
            raise InputRejected(*refusal(error)) from None


def check_layout(tags: Tags) -> None:
    """Raise InputRejected, `unsupported`, for a first page that is not read here."""
    photometric = tags.get(tifftags.PHOTOMETRIC, (1,))[0]
    if tifftags.DNG_VERSION in tags:
        raise InputRejected(
            Status.UNSUPPORTED, "TIFF: a DNG raw photograph; develop it to TIFF or JPEG first"
        )
    if tags.get(tifftags.SUBFILE_TYPE, (0,))[0] & 1 and tifftags.SUB_DIRECTORIES in tags:
        raise InputRejected(
            Status.UNSUPPORTED, "TIFF: its first page is a preview, as in raw photographs; develop it first"
        )
    if photometric == _CIELAB and tags.get(tifftags.BITS_PER_SAMPLE, (1,))[0] != 8:
        raise InputRejected(Status.UNSUPPORTED, "TIFF: CIELab of other than 8 bits")
    if photometric not in _PHOTOMETRIC_READ:
        raise InputRejected(
            Status.UNSUPPORTED,
            f"TIFF: photometric interpretation {photometric}; "
            "read are grey, RGB, palette, CMYK, YCbCr and CIELab",
        )


def _check_size(tags: Tags, max_pixels: int) -> None:
    """Bands are decoded together: few pixels of many bands cost much."""
    width, height = tags[tifftags.WIDTH][0], tags[tifftags.HEIGHT][0]
    samples = tags.get(tifftags.SAMPLES_PER_PIXEL, (1,))[0]
    if width * height * math.ceil(samples / 4) > max_pixels:
        raise InputRejected(
            Status.TOO_LARGE,
            f"TIFF: {width}x{height} pixels of {samples} bands; the limit is {max_pixels:,} of 4 bands",
        )
    check_blocks(tags, max_pixels)


def check_blocks(tags: Tags, max_pixels: int) -> None:
    """Raise InputRejected, `too_large`, for tiles or strips over the limit: each is decoded as a whole."""
    width, height = tags[tifftags.WIDTH][0], tags[tifftags.HEIGHT][0]
    samples = tags.get(tifftags.SAMPLES_PER_PIXEL, (1,))[0]
    block_width = tags.get(tifftags.TILE_WIDTH, (width,))[0]
    block_height = tags.get(
        tifftags.TILE_HEIGHT, (min(height, tags.get(tifftags.ROWS_PER_STRIP, (height,))[0]),)
    )[0]
    # Whatever the limit, a block of a million pixels is nothing to fear, and usual around small images.
    if block_width * block_height * math.ceil(samples / 4) > max(max_pixels, 2**20):
        raise InputRejected(
            Status.TOO_LARGE,
            f"TIFF: blocks of {block_width}x{block_height} pixels; the limit is {max_pixels:,} pixels",
        )


def _read(source: DatasetReader, tags: Tags) -> Rgb:
    bands = colour_bands(source.colorinterp)
    if any(np.dtype(source.dtypes[band - 1]).kind not in "uif" for band in bands):
        raise InputRejected(Status.UNSUPPORTED, f"TIFF: samples of type {source.dtypes[bands[0] - 1]}")
    if tags.get(tifftags.PHOTOMETRIC, (1,))[0] in (_CMYK, _YCBCR) and source.dtypes[0] != "uint8":
        # GDAL makes RGB of these, but only where they have 8 bits.
        raise InputRejected(
            Status.UNSUPPORTED, f"TIFF: CMYK or YCbCr of type {source.dtypes[0]}; read are 8 bits"
        )
    samples = source.read(bands)
    valid = _valid(source, bands, samples)
    if source.colorinterp[bands[0] - 1] == ColorInterp.palette:
        rgb = _palette(source, bands[0])[samples[0]]
    else:
        levels = eight_bits(*_positive(samples, tags), valid)
        rgb = np.array(np.moveaxis(np.broadcast_to(levels, (3, *levels.shape[1:])), 0, -1), order="C")
    return rgb if valid is None else black_out(rgb, valid)


def colour_bands(kinds: Sequence[ColorInterp]) -> list[int]:
    """The bands (from 1) that make red, green and blue, or the one that is grey, by what each is declared."""
    if all(kind in kinds for kind in _RGB_ORDER):
        return [kinds.index(kind) + 1 for kind in _RGB_ORDER]
    colours = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
    return colours[:3] if len(colours) >= 3 else colours[:1]


def _valid(source: DatasetReader, bands: list[int], samples: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which pixels (height, width) hold data by the file's alpha, nodata value, mask or NaN; None for all."""
    flags = source.mask_flag_enums[bands[0] - 1]
    valid: NDArray[np.bool_] | None = None
    if MaskFlags.nodata in flags:
        # From the samples at hand: GDAL would read and decode the file once more for each band.
        nodata = as_sample(source.nodata, samples.dtype)
        valid = None if nodata is None else np.logical_or.reduce([band != nodata for band in samples])
    elif MaskFlags.all_valid not in flags:
        valid = source.read_masks(bands[0]) > 0
    if samples.dtype.kind == "f":
        finite = np.isfinite(samples).all(axis=0)
        valid = finite if valid is None else valid & finite
    return valid


def as_sample(value: float, dtype: np.dtype[Any]) -> Any:
    """`value` in the type of the samples; None where none of them can have it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    limits = np.iinfo(dtype)
    return dtype.type(value) if value == value // 1 and limits.min <= value <= limits.max else None


def _positive(samples: NDArray[Any], tags: Tags) -> tuple[NDArray[Any], int | None]:
    """Samples with 0 as black, and their depth where the file declares it: not where it fills its words."""
    bits = tags.get(tifftags.BITS_PER_SAMPLE, (1,))[0]
    whole = samples.dtype.itemsize * 8
    declared = bits if samples.dtype.kind == "u" and bits < whole else None
    if tags.get(tifftags.PHOTOMETRIC, (1,))[0] == _MIN_IS_WHITE and samples.dtype.kind == "u":
        samples = samples.dtype.type((1 << (declared or whole)) - 1) - samples
    return samples, declared


def _palette(source: DatasetReader, band: int) -> NDArray[np.uint8]:
    colours = source.colormap(band)
    table = np.zeros((1 << 8 * np.dtype(source.dtypes[band - 1]).itemsize, 3), np.uint8)
    for index, colour in colours.items():
        table[index] = colour[:3]
    return table


def refusal(error: BaseException) -> tuple[Status, str]:
    """Status and reason of a file that GDAL refused with `error`."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"(/vsi[\w/-]*/)?image\.tif[:,]? ?", "", str(error)).splitlines()[0]
    if "OutOfMemory" in type(error).__name__:
        return Status.TOO_LARGE, f"TIFF: {text}"
    return Status.UNSUPPORTED if _NOT_READ.search(text) else Status.CORRUPT, f"TIFF: {text}"
