"""Reading rasters in processes of their own: what a raster does there costs the raster, and no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from pipeline.childdecode import PIXELS, REQUEST
from pipeline.children import Children, NoAnswer, Pipes, refusal
from pipeline.decode import DecodeLimits
from pipeline.geo.ranges import Ranged
from pipeline.geo.windows import inside
from pipeline.records import Window
from pipeline.tiled.childread import FROZEN, RANGE, STRETCH
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.pixels import WindowPixels
from pipeline.tiled.settings import Tiling

_MOST = 1 << 28
"""Bytes of a stretch that a child may ask for."""
_MAX_JSON = 1 << 20


class RasterChildren:
    """The processes that read rasters for their parent, which fetches the bytes. Safe in threads."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._children = Children(limits, "pipeline.tiled.childread")

    def close(self) -> None:
        """End them, those at work too."""
        self._children.close()

    def window(self, data: Ranged, raster: FrozenRaster, window: Window) -> WindowPixels:
        """`window_pixels` of a raster's bytes, in a child.

        Raises InputRejected as that does, StoreError where the bytes cannot be fetched, DeadlyImage and
        ChildError.
        """
        place = [window.x, window.y, window.width, window.height]
        asked = {"raster": raster.to_json(), "window": place}
        part = inside(window, raster.width, raster.height)
        return self._children.ask(lambda pipes: _window(pipes, data, asked, part))

    def inspect(self, data: Ranged, tiling: Tiling) -> FrozenRaster:
        """`look_at` a raster's bytes, in a child; raises as `window`."""
        return self._children.ask(lambda pipes: _inspected(pipes, data, {"tiling": asdict(tiling)}))


def _window(pipes: Pipes, data: Ranged, asked: Mapping[str, object], part: Window) -> WindowPixels:
    kind, height, width, size = _answered(pipes, data, asked)
    if kind != PIXELS or (height, width) != (part.height, part.width) or size != 4 * height * width:
        raise refusal(pipes, kind, size)
    rgb, valid = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.uint8)
    pipes.fill(rgb.data.cast("B"))
    pipes.fill(valid.data.cast("B"))
    return WindowPixels(rgb, None if valid.all() else valid != 0)


def _inspected(pipes: Pipes, data: Ranged, asked: Mapping[str, object]) -> FrozenRaster:
    kind, _, _, size = _answered(pipes, data, asked)
    if kind != FROZEN or size > _MAX_JSON:
        raise refusal(pipes, kind, size)
    text = bytearray(size)
    pipes.fill(memoryview(text))
    return read_frozen(text.decode())


def _answered(pipes: Pipes, data: Ranged, asked: Mapping[str, object]) -> tuple[int, int, int, int]:
    """Ask, hand out the stretches that are asked for in turn, and return what comes before the answer."""
    request = json.dumps({**asked, "uri": data.uri, "bytes": len(data)}).encode()
    pipes.send(REQUEST.pack(len(request)), request)
    while True:
        kind, height, width, size = pipes.header()
        if kind != RANGE:
            return kind, height, width, size
        stretch = bytearray(STRETCH.size)
        if size != len(stretch):
            raise NoAnswer("reading asked for something that is no stretch")
        pipes.fill(memoryview(stretch))
        start, length = STRETCH.unpack(stretch)
        if length > _MOST or start + length > len(data):
            raise NoAnswer("reading asked for bytes beyond the raster")
        with pipes.waiting():
            part = data.read(start, length)
        pipes.send(REQUEST.pack(len(part)), part)
