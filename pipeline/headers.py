"""What an image file is and how large, from its first bytes alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import jpeg, jpeg2000, tifftags
from pipeline.records import InputRejected, Status

READ = ("JPEG", "PNG", "TIFF", "WebP", "BMP", "GIF", "JPEG 2000")

_PNG = b"\x89PNG\r\n\x1a\n"
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"II*\0\x10\0\0\0CR", "a Canon raw photograph"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (_JP2, "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"SIMPLE  =", "FITS"),
    (b"\x89HDF\r\n", "HDF5 or netCDF"),
    (b"CDF", "netCDF"),
    (b"NITF", "NITF"),
    (b"\0\0\x01\0", "an icon (ICO)"),
    (b"\0\0\x02\0", "a cursor (CUR)"),
    (b"IIRO", "an Olympus raw photograph"),
    (b"IIU\0", "a Panasonic raw photograph"),
    (b"FUJIFILM", "a Fujifilm raw photograph"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "Parquet"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"qoif", "QOI"),
    (b"BM", "BMP"),
)

_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"crx ": "a Canon raw photograph",
}


@dataclass(frozen=True)
class Header:
    """What a file's header says; nothing in it has been checked against the pixels."""

    format: str
    """One of `READ`."""
    width: int
    """Pixels as stored: an EXIF orientation may turn them."""
    height: int


def probe(data: bytes) -> Header:
    """Format and size of an image file from its header alone, without decoding.

    `data` may be a prefix of the file. 64 KiB hold the header of nearly every file; a JPEG with a
    large profile or preview, or a TIFF whose directory stands at its end, needs more.

    Raises:
        InputRejected: `unsupported` (no format that is read here), `corrupt` (empty, or the header is
            damaged or not inside `data`).
    """
    if not data:
        raise InputRejected(Status.CORRUPT, "the file is empty")
    name = sniff(data)
    if name not in READ:
        raise InputRejected(Status.UNSUPPORTED, f"{name}; read are {', '.join(READ)}")
    try:
        width, height = _SIZES[name](data)
    except (ValueError, struct.error, IndexError, KeyError) as error:
        raise InputRejected(Status.CORRUPT, f"{name}: the header is damaged or cut: {error}") from None
    return Header(name, width, height)


def sniff(data: bytes) -> str:
    """The format's name by its signature: one of `READ`, or in words what else it seems to be."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF":
        return "WebP" if data[8:12] == b"WEBP" else "a RIFF file that is no WebP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 or QuickTime file")
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "a netpbm image"
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if start.startswith((b"<?xml", b"<svg", b"<error")):
        return "an XML or SVG document"
    return f"no known image format (it begins with {data[:8].hex(' ')})"


def _jpeg(data: bytes) -> tuple[int, int]:
    header = jpeg.read_header(data)
    return header.width, header.height


def _png(data: bytes) -> tuple[int, int]:
    if data[:8] != _PNG or data[12:16] != b"IHDR":
        raise ValueError("its first bytes were changed, as a transfer as text does")
    return struct.unpack_from(">II", data, 16)


def _tiff(data: bytes) -> tuple[int, int]:
    tags = tifftags.read_tags(data)
    if tifftags.WIDTH not in tags or tifftags.HEIGHT not in tags:
        raise ValueError("it does not tell its width and height")
    return tags[tifftags.WIDTH][0], tags[tifftags.HEIGHT][0]


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + struct.unpack_from("<I", data, 26)[0] // 256
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("its first chunk is no image")


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)


def _gif(data: bytes) -> tuple[int, int]:
    """The logical screen, widened to the first frame where that reaches beyond it, as readers do."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + ((3 << (flags & 7) + 1) if flags & 0x80 else 0)
    while data[position : position + 1] == b"!":
        position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    if data[position : position + 1] == b"," and position + 9 <= len(data):
        x, y, w, h = struct.unpack_from("<HHHH", data, position + 1)
        return max(width, x + w), max(height, y + h)
    return width, height


def _jpeg2000(data: bytes) -> tuple[int, int]:
    stream = jpeg2000.read_code_stream(data)
    return stream.width, stream.height


_SIZES: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "WebP": _webp,
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG 2000": _jpeg2000,
}
