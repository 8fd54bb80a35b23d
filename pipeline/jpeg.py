"""JPEG: its markers, and its pixels through libjpeg-turbo, with damage treated as an error."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import JpegImagePlugin

from pipeline import tifftags
from pipeline.exif import TURNED
from pipeline.pixels import Rgb, from_pillow
from pipeline.records import InputRejected, Status

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_PROCESSES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_BARE = frozenset((0x00, 0x01, _SOI, *range(0xD0, 0xD8)))
_MAX_SCANS = 200
_REDUCTIONS = (8, 4, 2)
Size = tuple[int, int]

# libjpeg's warnings that leave every pixel as it was written, and what turbojpeg alone cannot read.
# All other warnings mean that pixels were lost and filled in.
_HARMLESS = re.compile(
    r"extraneous bytes before marker 0xd9|Adobe color transform|ICC marker|JFIF revision"
    r"|Invalid SOS parameters|subsampling"
)
_JUNK = re.compile(r"extraneous bytes before marker 0x(?!d[0-79])")


@dataclass(frozen=True)
class JpegHeader:
    """What the markers before the first scan say."""

    width: int
    height: int
    precision: int
    components: int
    process: int
    """The frame marker's second byte: 0xC0 baseline, 0xC2 progressive, and so on."""
    orientation: int


def read_header(data: bytes) -> JpegHeader:
    """Read the markers up to the frame header; `data` may be a prefix of the file.

    Raises:
        ValueError: `data` ends, or the scan begins, before a frame header.
    """
    orientation = 1
    for marker, start, end in _segments(data):
        if marker == _APP1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = tifftags.orientation(data[start + 4 : end])
        elif marker in _FRAMES:
            if start + 10 > len(data):
                break
            precision, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
            return JpegHeader(width, height, precision, components, marker, orientation)
        elif marker == _SOS:
            raise ValueError("the scan begins before a frame header")
    raise ValueError("the file ends before its frame header")


def upright_size(header: JpegHeader) -> Size:
    """(height, width) of the picture as it is to be looked at."""
    size = (header.height, header.width)
    return size if header.orientation < TURNED else (header.width, header.height)


def reduced(header: JpegHeader, least: Size) -> int:
    """How many times smaller each edge can be, 1, 2, 4 or 8, and still be `least`, which is upright."""
    height, width = upright_size(header)
    fitting = (by for by in _REDUCTIONS if -(-height // by) >= least[0] and -(-width // by) >= least[1])
    return next(fitting, 1)


def decode_jpeg(data: bytes, header: JpegHeader, by: int = 1) -> Rgb:
    """The first picture of a JPEG or MPO as stored (not turned), complete; each edge `by` times smaller.

    A smaller one is made of the lower frequencies alone: 8 / `by` of each block's 8 x 8 coefficients an edge.

    Raises:
        InputRejected: `unsupported` (12 bits, lossless, two components), `corrupt` (cut or damaged),
            `too_large` (a progressive file of more scans than any encoder writes).
    """
    _check_layout(data, header)
    try:
        return _decode(data, header, by)
    except ValueError as error:
        problem = str(error)
    if _JUNK.search(problem):
        # Bytes between the markers before the first scan. They are taken out, not tolerated: only
        # without them does the decoder get on to tell of damage behind them.
        try:
            return _decode(_without_junk(data), header, by)
        except ValueError as error:
            problem = str(error)
    if _HARMLESS.search(problem):
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
            if by > 1:
                image.draft(None, (header.width // by, header.height // by))
            image.load()
            return from_pillow(image)
    status = Status.UNSUPPORTED if problem.startswith("Unsupported") else Status.CORRUPT
    raise InputRejected(status, f"JPEG: {problem}")


def _check_layout(data: bytes, header: JpegHeader) -> None:
    if header.precision != 8 or header.process not in _PROCESSES or header.components not in (1, 3, 4):
        raise InputRejected(
            Status.UNSUPPORTED,
            f"JPEG of {header.components} components with {header.precision} bits, process SOF"
            f"{header.process - 0xC0}: read are 1, 3 and 4 components with 8 bits, sequential or progressive",
        )
    # Each scan of a progressive file passes over the whole image: a small file could cost hours.
    if header.process in (0xC2, 0xCA) and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise InputRejected(
            Status.TOO_LARGE, f"progressive JPEG of {scans} scans; at most {_MAX_SCANS} are read"
        )


def _decode(data: bytes, header: JpegHeader, by: int) -> Rgb:
    """Raise ValueError at libjpeg's first warning. The buffer keeps a second, larger frame header out."""
    channels = 4 if header.components == 4 else 3
    height, width = -(-header.height // by), -(-header.width // by)
    buffer = np.empty((height, width, channels), np.uint8)
    smaller = {} if by == 1 else {"min_height": height, "min_width": width, "min_factor": 1}
    pixels: Rgb = simplejpeg.decode_jpeg(data, "CMYK" if channels == 4 else "RGB", buffer=buffer, **smaller)
    if pixels.shape != buffer.shape:
        raise ValueError("it holds two frame headers of different sizes")
    if channels == 3:
        return pixels
    # Stored inverted (255 is no ink) by every program that writes CMYK JPEGs.
    ink_free = pixels[..., :3].astype(np.uint16) * pixels[..., 3:]
    return ((ink_free + 127) // 255).astype(np.uint8)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment up to the first scan's, as libjpeg finds them: junk is skipped."""
    position = 2
    while (start := data.find(b"\xff", position)) >= 0:
        code = start + 1
        while data[code : code + 1] == b"\xff":
            code += 1
        if code >= len(data) or data[code] == _EOI:
            return
        if data[code] in _BARE:
            position = code + 1
            continue
        if code + 3 > len(data):
            return
        position = code + 1 + max(2, int.from_bytes(data[code + 1 : code + 3], "big"))
        yield data[code], code - 1, position
        if data[code] == _SOS:
            return


def _without_junk(data: bytes) -> bytes:
    parts = [data[:2]]
    for marker, start, end in _segments(data):
        parts.append(data[start:] if marker == _SOS else data[start:end])
    return b"".join(parts)
