"""Reads one window of a raster as the model sees it: 8-bit RGB, and which of its pixels hold data."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.decode import DecodeLimits
from pipeline.geo.ranges import Pages, Ranged
from pipeline.geo.reader import Rasters
from pipeline.geo.windows import inside
from pipeline.inputs import Inputs, rejecting
from pipeline.pixels import Rgb
from pipeline.records import ImageRef, InputRejected, Status, Window
from pipeline.sources import InputSource
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.pixels import WindowPixels, window_pixels
from pipeline.watchdog import paused, unhurried

PHOTOGRAPHS = 2
"""Decoded photographs kept for their next windows: a shard goes through them one after another."""
GAP = 8
"""Side in pixels of a square of nodata that counts as a gap."""
_PAGES = 32 << 20
Decode = Callable[[bytes], Rgb]


Elsewhere = Callable[[Ranged, FrozenRaster, Window], WindowPixels]


class WindowReader:
    """Reads the windows of a plan through their sources' options. Safe in threads."""

    def __init__(self, sources: Sequence[InputSource], multiple: int = 1) -> None:
        """`multiple` is what `framed` is to bring the windows' edges to."""
        self.multiple = multiple
        self._inputs = Inputs(sources)
        self._rasters = Rasters()
        self._photographs: OrderedDict[tuple[str, str | None], _Photograph] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of open rasters."""
        self._rasters.close()

    def read(
        self, ref: ImageRef, limits: DecodeLimits, decode: Decode, elsewhere: Elsewhere | None = None
    ) -> WindowPixels:
        """A window as planned, or what of it lies in its raster; `decode` is what decodes a photograph,
        `elsewhere` what reads a raster, if this process is not to.

        Raises InputRejected for this window alone: `nodata` where nothing in it is data, `missing` when the
        raster is gone, forbidden or changed, or whatever reading says. Raises Unavailable when its store
        serves nobody, and whatever `decode` raises.
        """
        window = ref.window
        assert window is not None
        assert ref.raster is not None
        raster = read_frozen(ref.raster)
        ref = ref if ref.etag is not None else replace(ref, etag=raster.etag)
        with rejecting():
            if raster.photograph:
                return self._of_photograph(ref, window, raster, limits, decode)
            return self._of_raster(ref, window, raster, elsewhere)

    def _of_raster(
        self, ref: ImageRef, window: Window, frozen: FrozenRaster, elsewhere: Elsewhere | None
    ) -> WindowPixels:
        store, key = self._inputs.find(ref)
        if elsewhere is not None:
            info = self._inputs.head(ref)
            data = Ranged(store, key, info.size, Pages(_PAGES), etag=info.etag)
            return elsewhere(data, frozen, window)
        return window_pixels(self._rasters.get(store, key, ref.etag), frozen, window)

    def _of_photograph(
        self, ref: ImageRef, window: Window, frozen: FrozenRaster, limits: DecodeLimits, decode: Decode
    ) -> WindowPixels:
        rgb = self._photograph(ref).get(lambda: decode(self._fetched(ref, limits)))
        if rgb.shape[:2] != (frozen.height, frozen.width):
            decoded, said = f"{rgb.shape[1]}x{rgb.shape[0]}", f"{frozen.width}x{frozen.height}"
            raise InputRejected(Status.UNSUPPORTED, f"decoded to {decoded} pixels, its header says {said}")
        part = inside(window, frozen.width, frozen.height)
        rows, columns = slice(part.y, part.y + part.height), slice(part.x, part.x + part.width)
        return WindowPixels(np.ascontiguousarray(rgb[rows, columns]), None)

    def _fetched(self, ref: ImageRef, limits: DecodeLimits) -> bytes:
        with paused():
            return self._inputs.fetch(ref, limits.bytes)[0]

    def _photograph(self, ref: ImageRef) -> _Photograph:
        with self._lock:
            found = self._photographs.setdefault((ref.uri, ref.etag), _Photograph())
            self._photographs.move_to_end((ref.uri, ref.etag))
            while len(self._photographs) > PHOTOGRAPHS:
                self._photographs.popitem(last=False)
        return found


def lacking_data(pixels: WindowPixels) -> str | None:
    """In words, how much of what a window has of its raster is nodata, where a thing could hide in it.

    The window's row says so: where it found nothing there may be something all the same. None where all is
    data, but for specks: pixels that happen to have the nodata value.
    """
    if pixels.valid is None:
        return None
    nodata = ~pixels.valid
    rows, columns = (side // GAP for side in nodata.shape)
    blocks = nodata[: rows * GAP, : columns * GAP].reshape(rows, GAP, columns, GAP)
    if not blocks.all(axis=(1, 3)).any():
        return None
    return f"{int(nodata.sum()):,} of its pixels are nodata"


class _Photograph:
    """Decoded once, by the first window that asks; others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rgb: Rgb | None = None
        self._refused: InputRejected | None = None

    def get(self, decode: Callable[[], Rgb]) -> Rgb:
        with unhurried(self._lock):
            if self._refused is not None:
                raise self._refused
            if self._rgb is None:
                try:
                    self._rgb = decode()
                except InputRejected as error:
                    self._refused = error
                    raise
            return self._rgb
