"""What a raster says of itself in its header, checked before GDAL decodes a pixel of it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from pipeline import tifftags
from pipeline.geo.georef import Georef, georef_of
from pipeline.headers import sniff
from pipeline.records import InputRejected, Status
from pipeline.tiff import check_blocks, check_layout, colour_bands
from pipeline.tifftags import Source, Tags

MAX_BLOCK_PIXELS = 1 << 26
"""Most pixels of one tile or strip: a window needs whole ones."""
_MAX_BLOCKS = 1 << 26
"""Most tiles or strips: their places in the file have to be held."""
_CIELAB, _CMYK, _YCBCR = 8, 5, 6
_REMEDY = "write it as a COG first (gdal_translate -of COG)"


@dataclass(frozen=True)
class RasterHeader:
    """A raster's layout. Sizes in pixels, bands counted from 1."""

    width: int
    height: int
    dtypes: tuple[str, ...]
    """NumPy's name of each band's samples."""
    colours: tuple[ColorInterp, ...]
    """What each band is declared to be."""
    nodata: float | None
    masked: bool
    """Whether a mask band or alpha says which pixels hold data."""
    block: tuple[int, int]
    """Width and height of its tiles or strips."""
    factors: tuple[int, ...]
    """How many times smaller each of its overviews is."""
    bits: int
    """Declared depth of a sample."""
    white_is_zero: bool
    georef: Georef | None
    """Where it lies, if it says so."""

    @property
    def rgb(self) -> tuple[int, ...]:
        """The bands that make red, green and blue, or the one that is grey, by their declarations."""
        return tuple(colour_bands(self.colours))

    def samples(self, band: int) -> str:
        """In words, what a band's samples are and what they mean: what a stretch was chosen for."""
        dtype = self.dtypes[band - 1]
        words = [dtype]
        if self.bits < 8 * np.dtype(dtype).itemsize:
            words.append(f"of {self.bits} bits")
        if self.colours[band - 1] == ColorInterp.palette:
            words.append("with a palette")
        if self.white_is_zero:
            words.append("where 0 is white")
        return " ".join(words)


def check_tags(data: Source) -> Tags:
    """The tags of a raster's first directory, found to be bearable.

    Raises InputRejected: `unsupported`, `corrupt` or `too_large`.
    """
    if (name := sniff(data[:256])) != "TIFF":
        raise InputRejected(Status.UNSUPPORTED, f"{name}; rasters read by windows are GeoTIFF and COG")
    try:
        tags = tifftags.read_tags(data)
        width, height = tags[tifftags.WIDTH][0], tags[tifftags.HEIGHT][0]
    except (ValueError, KeyError, struct.error) as error:
        raise InputRejected(Status.CORRUPT, f"TIFF: the header is damaged or cut: {error}") from None
    if width < 1 or height < 1:
        raise InputRejected(Status.CORRUPT, f"TIFF: {width}x{height} pixels")
    check_layout(tags)
    if tags.get(tifftags.PHOTOMETRIC, (1,))[0] == _CIELAB:
        raise InputRejected(Status.UNSUPPORTED, f"TIFF: CIELab is not read by windows; {_REMEDY} as RGB")
    try:
        check_blocks(tags, MAX_BLOCK_PIXELS)
    except InputRejected as error:
        raise InputRejected(error.status, f"{error.reason}; {_REMEDY}") from None
    return tags


def read_header(source: DatasetReader, tags: Tags) -> RasterHeader:
    """The header of an opened raster, whose checked tags are `tags`.

    Raises InputRejected: `unsupported` or `too_large`.
    """
    block_height, block_width = source.block_shapes[0]
    blocks = math.ceil(source.width / block_width) * math.ceil(source.height / block_height)
    if blocks > _MAX_BLOCKS:
        raise InputRejected(
            Status.TOO_LARGE, f"TIFF: {blocks:,} tiles of {block_width}x{block_height}; {_REMEDY}"
        )
    photometric = tags.get(tifftags.PHOTOMETRIC, (1,))[0]
    if photometric in (_CMYK, _YCBCR) and source.dtypes[0] != "uint8":
        raise InputRejected(
            Status.UNSUPPORTED, f"TIFF: CMYK or YCbCr of type {source.dtypes[0]}; read are 8 bits"
        )
    georef = georef_of(source)
    if tags.get(tifftags.ORIENTATION, (1,))[0] != 1 and georef is None:
        raise InputRejected(Status.UNSUPPORTED, f"TIFF: stored turned or mirrored; {_REMEDY}")
    flags = source.mask_flag_enums[colour_bands(source.colorinterp)[0] - 1]
    return RasterHeader(
        width=source.width,
        height=source.height,
        dtypes=tuple(source.dtypes),
        colours=tuple(source.colorinterp),
        nodata=source.nodata,
        masked=MaskFlags.nodata not in flags and MaskFlags.all_valid not in flags,
        block=(block_width, block_height),
        factors=tuple(source.overviews(1)),
        bits=tags.get(tifftags.BITS_PER_SAMPLE, (1,))[0],
        white_is_zero=photometric == 0,
        georef=georef,
    )


def check_level(source: DatasetReader) -> None:
    """Raise InputRejected, `too_large`, for an overview whose blocks are over the limit."""
    height, width = source.block_shapes[0]
    if width * height * math.ceil(source.count / 4) > MAX_BLOCK_PIXELS:
        raise InputRejected(
            Status.TOO_LARGE, f"TIFF: an overview with blocks of {width}x{height} pixels; {_REMEDY}"
        )


def check_bands(header: RasterHeader, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """The bands to read, red first or the one that is grey: those asked for, else the declared colours.

    Raises ValueError for other than one or three and for bands the raster has not, InputRejected
    (`unsupported`) for samples that are no real numbers.
    """
    bands = header.rgb if asked is None else asked
    if len(bands) not in (1, 3):
        raise ValueError(f"`bands` must name one band or three, not {list(bands)}")
    missing = [band for band in bands if not 1 <= band <= len(header.dtypes)]
    if missing:
        raise ValueError(f"`bands` asks for band {missing[0]}; the raster has {len(header.dtypes)}")
    for band in bands:
        if np.dtype(header.dtypes[band - 1]).kind not in "uif":
            raise InputRejected(Status.UNSUPPORTED, f"TIFF: samples of type {header.dtypes[band - 1]}")
    return bands
