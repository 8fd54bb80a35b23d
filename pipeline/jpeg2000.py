"""JPEG 2000: what its code stream says of itself, and whether all of it is there."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass

_SIZE, _TILE_PART, _END = 0xFF51, 0xFF90, 0xFFD9


@dataclass(frozen=True)
class CodeStream:
    """The SIZ marker of a code stream, and where the stream starts in the file."""

    start: int
    width: int
    height: int
    tiles: int
    components: int


def read_code_stream(data: bytes) -> CodeStream:
    """Find the code stream in a JP2 file or a raw stream; `data` may be a prefix of the file.

    Raises:
        ValueError: there is none, it is cut inside its header, or the file's header tells another size.
    """
    start = _find(data)
    if start + 42 > len(data):
        raise ValueError("the file ends inside its code stream's header")
    marker, _, _, x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y, components = struct.unpack_from(
        ">HHHIIIIIIIIH", data, start + 2
    )
    if marker != _SIZE or not tile_w or not tile_h:
        raise ValueError("the code stream's header is damaged")
    tiles = math.ceil((x1 - tile_x) / tile_w) * math.ceil((y1 - tile_y) / tile_h)
    stream = CodeStream(start, x1 - x0, y1 - y0, tiles, components)
    box = data.find(b"ihdr", 0, start)
    if box >= 0 and struct.unpack_from(">II", data, box + 4) != (stream.height, stream.width):
        raise ValueError("the file's header and its code stream tell different sizes")
    return stream


def check_complete(data: bytes, stream: CodeStream) -> None:
    """Check that every tile is there whole: the decoder leaves a missing last tile grey without a word.

    Raises:
        ValueError: a tile, or a part of one, is missing or cut.
    """
    seen: Counter[int] = Counter()
    declared: dict[int, int] = {}
    position = stream.start + 2
    while position + 12 <= len(data):
        marker, length, tile, part_length, _, parts = struct.unpack_from(">HHHIBB", data, position)
        if marker == _END:
            break
        if marker != _TILE_PART:
            position += 2 + length
            continue
        seen[tile] += 1
        if parts:  # 0 says that another part of the tile tells their number
            declared[tile] = parts
        if part_length == 0:  # the last part, up to the end of the file
            break
        position += max(part_length, 14)
    if position > len(data):
        raise ValueError("the file ends inside a tile")
    if len(seen) < stream.tiles or any(seen[tile] < parts for tile, parts in declared.items()):
        raise ValueError(f"{len(seen)} of {stream.tiles} tiles are there, or one lacks a part")


def _find(data: bytes) -> int:
    if data.startswith(b"\xff\x4f"):
        return 0
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1 and position + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        if kind == b"jp2c":
            return position + head
        if length < head:
            break
        position += length
    raise ValueError("there is no code stream")
