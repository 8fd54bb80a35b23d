"""Tags of a TIFF's first directory, read by hand: sizes are known before any decoder sees the file.

An EXIF block is a TIFF too, so this is also where an orientation comes from.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

SUBFILE_TYPE = 254
WIDTH = 256
HEIGHT = 257
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
ORIENTATION = 274
SAMPLES_PER_PIXEL = 277
ROWS_PER_STRIP = 278
TILE_WIDTH = 322
TILE_HEIGHT = 323
SUB_DIRECTORIES = 330
DNG_VERSION = 50706

Tags = dict[int, tuple[int, ...]]


class Source(Protocol):
    """A file's bytes: all of them at hand, or read where they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_VALUES = 16
_MAX_ENTRIES = 4096


def read_tags(data: Source) -> Tags:
    """The integer tags of the first directory, at most 16 values each.

    Tags of other types, and those whose values lie outside `data`, are left out: metadata is often
    cut or wrong in files whose pixels are well.

    Raises:
        ValueError: no TIFF, or its first directory lies outside `data`.
    """
    order, big, offset = _first_directory(data)
    count_format, entry_size = ("Q", 20) if big else ("H", 12)
    count_size = struct.calcsize("=" + count_format)
    if offset + count_size > len(data):
        raise ValueError("the file ends before its first TIFF directory")
    (count,) = _unpack(order + count_format, data, offset)
    offset += count_size
    entries = min(count, _MAX_ENTRIES)
    if offset + entries * entry_size > len(data):
        raise ValueError("the file ends inside its first TIFF directory")
    tags: Tags = {}
    for entry in range(offset, offset + entries * entry_size, entry_size):
        number, kind = _unpack(order + "HH", data, entry)
        values = _values(data, order, big, entry, kind)
        if values:
            tags.setdefault(number, values)
    return tags


def orientation(exif: bytes) -> int:
    """EXIF orientation 1 to 8 of an EXIF block, with or without its `Exif` prefix; 1 where it says none."""
    try:
        values = read_tags(exif.removeprefix(b"Exif\0\0")).get(ORIENTATION, (1,))
    except ValueError:
        return 1
    return values[0] if 1 <= values[0] <= 8 else 1


def _first_directory(data: Source) -> tuple[str, bool, int]:
    """Byte order as `struct` names it, whether it is a BigTIFF, offset of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise ValueError("the TIFF header is damaged")
    version, offset = _unpack(order + "HI", data, 2)
    if version == 42:
        return order, False, offset
    if version == 43 and len(data) >= 16:
        return order, True, _unpack(order + "Q", data, 8)[0]
    raise ValueError("the TIFF header is damaged")


def _values(data: Source, order: str, big: bool, entry: int, kind: int) -> tuple[int, ...]:
    code = _INTEGERS.get(kind)
    if code is None:
        return ()
    word, position, inline = ("Q", entry + 12, 8) if big else ("I", entry + 8, 4)
    (count,) = _unpack(order + word, data, entry + 4)
    if count * struct.calcsize("=" + code) > inline:
        (position,) = _unpack(order + word, data, position)
    layout = f"{order}{min(count, _MAX_VALUES)}{code}"
    if position + struct.calcsize(layout) > len(data):
        return ()
    return _unpack(layout, data, position)


def _unpack(layout: str, data: Source, position: int) -> tuple[Any, ...]:
    return struct.unpack(layout, data[position : position + struct.calcsize(layout)])
