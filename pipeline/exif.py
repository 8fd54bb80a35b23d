"""Where PNG and WebP keep their EXIF block, found without reading the pixels that stand before it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from pipeline.tifftags import Source, orientation

TURNED = 5
"""EXIF orientations from here on swap width and height."""
_MAX_CHUNKS = 4096
_TAIL = 1 << 18
"""Bytes of a PNG's end: what follows the pixels fits in."""
_MAX_FINDS = 16


def stored_orientation(format: str, data: Source) -> int:
    """The EXIF orientation, 1 to 8, by which decoding turns a PNG or WebP; 1 for files of other formats."""
    find = _FINDERS.get(format)
    block = None if find is None else find(data)
    return 1 if block is None else orientation(block)


def _png(data: Source) -> bytes | None:
    """The last `eXIf` chunk before the pixels or behind them: both are allowed, and both are written."""
    found, at = None, 8
    for _ in range(_MAX_CHUNKS):
        head = data[at : at + 8]
        if len(head) < 8 or head[4:] == b"IDAT":
            break
        (length,) = struct.unpack_from(">I", head)
        if head[4:] == b"eXIf":
            found = data[at + 8 : at + 8 + min(length, _TAIL)]
        at += 12 + length
    return _behind(data[max(at, len(data) - _TAIL) : len(data)]) or found


def _behind(tail: bytes) -> bytes | None:
    """The last `eXIf` chunk of a PNG's end, known from pixels that look like one by its checksum."""
    at = len(tail)
    for _ in range(_MAX_FINDS):
        at = tail.rfind(b"eXIf", 0, at)
        if at < 4:
            return None
        (length,) = struct.unpack_from(">I", tail, at - 4)
        end = at + 4 + length
        if tail[end : end + 4] == struct.pack(">I", zlib.crc32(tail[at:end])):
            return tail[at + 4 : end]
    return None


def _webp(data: Source) -> bytes | None:
    """The `EXIF` chunk, which comes last, where the first chunk tells of one."""
    if data[12:16] != b"VP8X" or not data[20:21] or not data[20:21][0] & 8:
        return None
    at = 12
    for _ in range(_MAX_CHUNKS):
        head = data[at : at + 8]
        if len(head) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return data[at + 8 : at + 8 + min(length, _TAIL)]
        at += 8 + length + (length & 1)
    return None


_FINDERS: dict[str, Callable[[Source], bytes | None]] = {"PNG": _png, "WebP": _webp}
