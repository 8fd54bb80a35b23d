"""From the bytes of an image file to its pixels, or to the reason why not. `docs/inputs.md` has the rules."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from pipeline import jpeg, jpeg2000, tifftags
from pipeline.headers import Header, probe
from pipeline.jpeg import Size
from pipeline.pixels import Rgb, from_pillow, upright
from pipeline.records import InputRejected, Status
from pipeline.tiff import decode_tiff

__all__ = ["DecodeLimits", "Header", "Size", "decode", "jpeg_size", "probe"]

# What Pillow warns of (a broken animation chunk, a large canvas) is none of the user's business: a file
# either gives its pixels or a reason. `catch_warnings` would swap the process's filters under other threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_MAX_REASON = 300
_MEMORY = 2**30
_MEMORY_PER_PIXEL = 24
"""The costliest decoder, that of 16-bit TIFFs, takes 20 bytes."""


@dataclass(frozen=True)
class DecodeLimits:
    """What one input may cost at most; over `pixels`, `bytes` or `memory` it ends `too_large`."""

    pixels: int = 200_000_000
    """Width times height, known from the header before anything is decoded."""
    bytes: int = 1_000_000_000
    """Size of the file, known before it is fetched."""
    seconds: float = 120.0
    """Decoding that lasts longer ends its process, in the end with the input `failed` (`pipeline.care`).

    Not part of the settings fingerprint: which input is hit depends on the machine and not on the settings
    alone, as with `missing`, and who gives such inputs more time means to keep the rows of all others.
    """

    @property
    def memory(self) -> int:
        """Bytes that a process of its own may take to decode an input within `pixels` and `bytes`."""
        return _MEMORY + self.bytes + _MEMORY_PER_PIXEL * self.pixels


def jpeg_size(data: bytes) -> Size | None:
    """(height, width) of a JPEG as it is to be looked at; None for anything else, damaged ones too."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        return jpeg.upright_size(jpeg.read_header(data))
    except ValueError:
        return None


def decode(data: bytes, limits: DecodeLimits, least: Size | None = None) -> Rgb:
    """Decode one image file to upright 8-bit RGB.

    With `least` (height, width), a JPEG comes in half, a quarter or an eighth of its size, as long as it is
    that large at least. Safe to call from several threads. Nothing is written to disk.

    Returns:
        uint8 (height, width, 3), contiguous; the EXIF orientation is applied.

    Raises:
        InputRejected: `corrupt` (empty, damaged, or not all there), `unsupported`, `too_large`
            (from the header, before decoding) or `nodata` (every pixel declared transparent or nodata).
            Nothing else is raised, whatever the bytes.
    """
    if len(data) > limits.bytes:
        raise InputRejected(Status.TOO_LARGE, f"{len(data):,} bytes; the limit is {limits.bytes:,}")
    header = probe(data)
    _check_size(header, limits)
    try:
        if least is not None and header.format == "JPEG":
            return _jpeg(data, limits, least)
        return _READERS[header.format](data, limits)
    except InputRejected:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise InputRejected(Status.TOO_LARGE, _reason(header, error)) from None
    except Exception as error:
        raise InputRejected(_status(error), _reason(header, error)) from None


def _check_size(header: Header, limits: DecodeLimits) -> None:
    pixels, most = header.width * header.height, limits.pixels
    size = f"{header.format}: {header.width}x{header.height} pixels"
    if header.width < 1 or header.height < 1:
        raise InputRejected(Status.CORRUPT, size)
    if pixels > most:
        raise InputRejected(Status.TOO_LARGE, f"{size} are {pixels:,}; the limit is {most:,}")


def _status(error: Exception) -> Status:
    """What a decoder's own message says. Pillow bounds what a PNG's texts and profile may unpack to."""
    if re.search("too large|too much memory", str(error), re.IGNORECASE):
        return Status.TOO_LARGE
    return Status.UNSUPPORTED if "nsupported" in str(error) else Status.CORRUPT


def _reason(header: Header, error: Exception) -> str:
    # Addresses differ from run to run, and the tables of two runs must not.
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error)).strip().partition("\n")[0]
    return f"{header.format}: {type(error).__name__}: {text}"[:_MAX_REASON]


def _jpeg(data: bytes, limits: DecodeLimits, least: Size | None = None) -> Rgb:
    header = jpeg.read_header(data)
    rgb = jpeg.decode_jpeg(data, header, 1 if least is None else jpeg.reduced(header, least))
    return rgb if header.orientation == 1 else upright(rgb, header.orientation)


def _tiff(data: bytes, limits: DecodeLimits) -> Rgb:
    rgb = decode_tiff(data, limits.pixels)
    return upright(rgb, tifftags.orientation(data))


def _jpeg2000(data: bytes, limits: DecodeLimits) -> Rgb:
    stream = jpeg2000.read_code_stream(data)
    if not 1 <= stream.components <= 4:
        raise InputRejected(
            Status.UNSUPPORTED, f"JPEG 2000 of {stream.components} components; read are 1 to 4"
        )
    jpeg2000.check_complete(data, stream)
    return _pillow(Jpeg2KImagePlugin.Jpeg2KImageFile, data)


def _png(data: bytes, limits: DecodeLimits) -> Rgb:
    return _pillow(PngImagePlugin.PngImageFile, data)


def _webp(data: bytes, limits: DecodeLimits) -> Rgb:
    return _pillow(WebPImagePlugin.WebPImageFile, data)


def _bmp(data: bytes, limits: DecodeLimits) -> Rgb:
    return _pillow(BmpImagePlugin.BmpImageFile, data)


def _gif(data: bytes, limits: DecodeLimits) -> Rgb:
    return _pillow(GifImagePlugin.GifImageFile, data)


def _pillow(plugin: type[ImageFile.ImageFile], data: bytes) -> Rgb:
    """Read with the one plugin of the format that was recognised.

    `Image.open` would try others, and hold the size against a limit of its own that is the process's.
    """
    with plugin(io.BytesIO(data)) as image:
        image.load()
        exif = image.info.get("exif")
        if plugin is PngImagePlugin.PngImageFile and data[24] == 16 and image.mode == "RGB":
            # The transparent colour has 16 bits, the pixels by now have 8.
            image.info.pop("transparency", None)
        if plugin is BmpImagePlugin.BmpImageFile and image.mode == "RGBA":
            # Many writers leave a BMP's alpha zero throughout.
            rgb = from_pillow(image.convert("RGB"))
        else:
            rgb = from_pillow(image)
    return upright(rgb, tifftags.orientation(exif)) if exif else rgb


_READERS: dict[str, Callable[[bytes, DecodeLimits], Rgb]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "WebP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG 2000": _jpeg2000,
}
