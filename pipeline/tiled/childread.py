"""A process that does nothing but read rasters that may end it: `python -P -m pipeline.tiled.childread`.

It has no credentials: the bytes of a raster come from its parent, a range at a time, as it asks for them.
`pipeline.tiled.children` is the other end. A request is JSON: the raster's size in bytes and its URI, and
either a window and how it is read, or how a job's rasters are to be looked at.
"""

from __future__ import annotations

import json
import struct
from contextlib import closing

import numpy as np

from pipeline.childdecode import PIXELS, Answer, Pipes, serve, unalarmed
from pipeline.decode import DecodeLimits
from pipeline.geo.ranges import Pages, Ranged
from pipeline.geo.reader import Raster
from pipeline.records import InputRejected, Status, Window
from pipeline.tiled.frozen import read_frozen
from pipeline.tiled.inspect import look_at
from pipeline.tiled.pixels import window_pixels
from pipeline.tiled.settings import Tiling

RANGE, FROZEN = 254, 253
"""Kinds: asks for a stretch of the raster's bytes; what a plan keeps of it, as JSON."""
STRETCH = struct.Struct("<QQ")
"""Where it begins, and how long it is."""


class _Asked:
    """A store that holds one object, whose bytes the parent has; it sees to it that they are of one file."""

    def __init__(self, pipes: Pipes, uri: str) -> None:
        self._pipes, self._uri = pipes, uri

    def join(self, key: str) -> str:
        return self._uri

    def get_range(self, key: str, start: int, length: int, check: object) -> bytes:
        self._pipes.send(RANGE, body=STRETCH.pack(start, length))
        with unalarmed():
            data = self._pipes.receive()
        if data is None:
            raise SystemExit  # the parent is gone
        return data


def answer(data: bytes, limits: DecodeLimits, pipes: Pipes) -> Answer:
    """Read a window, or a header."""
    asked = json.loads(data)
    store = _Asked(pipes, asked["uri"])
    raster = Raster(Ranged(store, "raster", asked["bytes"], Pages(32 << 20)))  # type: ignore[arg-type]
    with closing(raster):
        if "tiling" in asked:
            try:
                frozen = look_at(raster, Tiling.of(asked["tiling"]))
            except ValueError as error:
                raise InputRejected(Status.UNSUPPORTED, str(error)) from None
            return FROZEN, 0, 0, frozen.to_json().encode()
        pixels = window_pixels(raster, read_frozen(asked["raster"]), Window(*asked["window"]))
        height, width = pixels.rgb.shape[:2]
        valid = np.ones((height, width), bool) if pixels.valid is None else pixels.valid
        return PIXELS, height, width, pixels.rgb.tobytes() + valid.tobytes()


if __name__ == "__main__":
    serve(answer)
