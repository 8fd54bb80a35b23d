"""Small image files of every kind for tests of `pipeline.decode`, and ways to try them."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.io import MemoryFile

from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected

LIMITS = DecodeLimits()
RNG = np.random.default_rng(7)


def encode(image: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, format, **options)
    return file.getvalue()


def geotiff(bands: np.ndarray, mask: np.ndarray | None = None, **profile: Any) -> bytes:
    """A GeoTIFF of `bands` (count, height, width)."""
    count, height, width = bands.shape
    with MemoryFile() as file:
        with file.open(
            driver="GTiff", height=height, width=width, count=count, dtype=bands.dtype, **profile
        ) as out:
            out.write(bands)
            if mask is not None:
                out.write_mask(mask)
        return bytes(file.read())


def photo(height: int = 70, width: int = 90) -> np.ndarray:
    """Something smooth with noise on it, so that encoders have work to do."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], -1).astype(np.uint8)
    return smooth ^ RNG.integers(0, 16, smooth.shape, dtype=np.uint8)


def rejection(data: bytes, limits: DecodeLimits = LIMITS) -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        decode(data, limits)
    return caught.value


def attempt(data: bytes, limits: DecodeLimits) -> np.ndarray | InputRejected:
    """What `decode` does with `data`; anything it raises but `InputRejected` fails the test."""
    try:
        return decode(data, limits)
    except InputRejected as error:
        return error


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2)


FILES: dict[str, bytes] = {
    "jpeg": encode(photo(), "JPEG", quality=90),
    "jpeg progressive": encode(photo(), "JPEG", progressive=True),
    "jpeg cmyk": encode(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
    "png": encode(photo(), "PNG"),
    "png 16": encode(RNG.integers(0, 65536, (40, 50), dtype=np.uint16), "PNG"),
    "tiff raw": encode(photo(), "TIFF"),
    "tiff lzw": encode(photo(), "TIFF", compression="tiff_lzw"),
    "tiff jpeg": geotiff(
        photo().transpose(2, 0, 1),
        compress="jpeg",
        photometric="ycbcr",
        tiled=True,
        blockxsize=32,
        blockysize=32,
    ),
    "tiff big": geotiff(photo().transpose(2, 0, 1), bigtiff="yes", compress="deflate"),
    "webp": encode(photo(), "WebP"),
    "webp lossless": encode(photo(), "WebP", lossless=True),
    "bmp": encode(photo(), "BMP"),
    "gif": encode(Image.fromarray(photo()).quantize(32), "GIF"),
    "jp2": encode(photo(), "JPEG2000"),
    "j2k tiles": encode(photo(), "JPEG2000", no_jp2=True, tile_size=(32, 32)),
}


def tiff_of(**tags: int) -> bytes:
    """Nothing but a header and one directory of LONG tags, by number: `t256=...`."""
    entries = sorted((int(name[1:]), value) for name, value in tags.items())
    body = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0\0\0\0"
