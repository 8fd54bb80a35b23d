"""What the head's norms find in a raster as a whole, so that they are the same in all of its windows.

Found in squares at even distances over the raster, or over its area of interest: which ones depends on
neither the tiling nor the shard, so any worker finds the same. The first to put it in the store decides for
all. Squares that cannot be read are left out.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.records import ImageRef, Window
from pipeline.storage import NotFound, Store, StoreError
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.watchdog import unhurried

SIDE = 512
"""Of a square, in pixels of the network's input."""
ACROSS = 4
"""Squares along either edge of a raster, at most."""
SMALL = 4
"""Squares up to which a raster is too small to be looked at beside its windows, which then have their own."""
_KEPT = 256
_NAME = "norms"

Statistics = NDArray[np.float32]
"""As `Prepared.norms` has them; empty where nothing could be read."""
NOTHING: Statistics = np.empty(0, np.float32)
Measure = Callable[[Sequence[ImageRef]], Statistics]


class RasterNorms:
    """The statistics of a job's rasters, each found once. Safe in threads."""

    def __init__(self, store: Store, scale: float) -> None:
        """`store` is the windows' output; `scale` pixels of the network's input for each of a window."""
        self._store, self._scale = store, scale
        self._found: OrderedDict[str, Statistics] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, ref: ImageRef, measure: Measure) -> Statistics | None:
        """The statistics of the raster that a window is of; None where windows are to have their own.

        `measure` finds them in squares, given as further windows. Raises what it raises, and StoreError.
        """
        assert ref.raster is not None
        key = f"_norms/{_digest(ref)}.safetensors"
        with unhurried(self._lock):
            if key not in self._found:
                self._found[key] = self._find(key, ref, measure)
                while len(self._found) > _KEPT:
                    self._found.popitem(last=False)
            self._found.move_to_end(key)
            found = self._found[key]
        return found if found.size else None

    def _find(self, key: str, ref: ImageRef, measure: Measure) -> Statistics:
        raster = read_frozen(ref.raster or "{}")
        if not are_raster_wide(raster, self._scale):
            return NOTHING
        standing = self._read(key)
        if standing is not None:
            return standing
        squares = squares_of(raster, self._scale)
        return self._decide(key, measure([_square(ref, square) for square in squares]))

    def _read(self, key: str) -> Statistics | None:
        try:
            data = self._store.get(key)
        except NotFound:
            return None
        try:
            return np.asarray(load(data)[_NAME], np.float32)
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(
                f"{self._store.join(key)} is damaged ({error}); remove it and run the job again"
            ) from None

    def _decide(self, key: str, found: Statistics) -> Statistics:
        if not self._store.create(key, save({_NAME: np.ascontiguousarray(found)})):
            standing = self._read(key)
            return found if standing is None else standing
        return found


def are_raster_wide(raster: FrozenRaster, scale: float) -> bool:
    """Whether a raster's windows share statistics: not where it, or what of it is of interest, is small."""
    return len(squares_of(raster, scale)) > SMALL


def squares_of(raster: FrozenRaster, scale: float) -> list[Window]:
    """Squares of what is of interest in a raster, at most `ACROSS` by `ACROSS`, at even distances."""
    side = max(1, round(SIDE / scale))
    left, top, right, bottom = raster.part or (0, 0, raster.width, raster.height)
    columns = _starts(left, right, raster.width, side)
    rows = _starts(top, bottom, raster.height, side)
    return [Window(x, y, side, side) for y in rows for x in columns]


def _starts(first: int, end: int, length: int, side: int) -> list[int]:
    """Where squares begin along one edge: on multiples of their side, where there is the room."""
    first = max(0, min(first, length - side))
    room = max(0, min(end, length) - first - side)
    count = min(ACROSS, 1 + -(-room // side))
    if count == 1:
        return [first]
    starts = [first + room * number // (count - 1) for number in range(count)]
    if room >= ACROSS * side:  # so that a tiled raster has to be read in few of its blocks
        starts = [start // side * side for start in starts]
    return starts


def _square(ref: ImageRef, square: Window) -> ImageRef:
    name = ref.uri.rpartition("/")[2]
    return replace(ref, image_id=f"{name} (norms at {square.x}, {square.y})", window=square)


def _digest(ref: ImageRef) -> str:
    """Of the raster that a window is of, and of how it is read."""
    named = json.dumps([ref.source, ref.uri, ref.etag, ref.raster])
    return hashlib.sha256(named.encode()).hexdigest()[:32]
