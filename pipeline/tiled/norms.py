"""What the head's norms find in a raster as a whole, so that they are the same in all of its windows.

Found in squares at even distances over the raster, or in its area of interest; in a small raster everywhere.
Which ones depends on neither the tiling nor the shard, so any worker finds the same. The first to put it in
the store decides for all. Squares that cannot be read are left out. A raster that is one small window finds
the same by itself.
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

from pipeline.geo.aoi import RasterArea
from pipeline.records import ImageRef, Window
from pipeline.storage import NotFound, Store, StoreError
from pipeline.tiled.frozen import FrozenRaster, Part, read_frozen
from pipeline.watchdog import unhurried

SIDE = 512
"""Of a square, in pixels of the network's input."""
ACROSS = 4
"""Squares along either edge of a raster, at most, but for strips."""
SMALL = 1024
"""Of a raster's edges in pixels of the network's input: up to this all of it is looked at, as one."""
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
        if raster.windows == 1 and is_small(raster, self._scale):
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


def is_small(raster: FrozenRaster, scale: float) -> bool:
    """Whether all that is of interest in a raster can be looked at as one."""
    left, top, right, bottom = _part(raster)
    return max(right - left, bottom - top) * scale <= SMALL


def squares_of(raster: FrozenRaster, scale: float) -> list[Window]:
    """Squares of what is of interest in a raster, at most `ACROSS` by `ACROSS`, at even distances."""
    left, top, right, bottom = _part(raster)
    if is_small(raster, scale):
        return [Window(left, top, right - left, bottom - top)]
    side = side_of(scale)
    if raster.squares is not None:
        return [Window(x, y, side, side) for x, y in raster.squares]
    across, down = (max(1, (end - begin) // side) for begin, end in ((left, right), (top, bottom)))
    most = ACROSS * ACROSS
    columns = _starts(left, right, side, min(across, max(ACROSS, most // down)))
    rows = _starts(top, bottom, side, min(down, max(ACROSS, most // across)))
    return [Window(x, y, min(side, right - x), min(side, bottom - y)) for y in rows for x in columns]


def squares_in(area: RasterArea, scale: float) -> tuple[tuple[int, int], ...] | None:
    """Squares of an area of interest, at even distances among those in it; None where no square is."""
    found = list(area.squares(side_of(scale)))
    count = min(len(found), ACROSS * ACROSS)
    return tuple(found[len(found) * number // count] for number in range(count)) or None


def side_of(scale: float) -> int:
    """Of a square, in pixels of a raster's view."""
    return max(1, round(SIDE / scale))


def _part(raster: FrozenRaster) -> Part:
    left, top, right, bottom = raster.part or (0, 0, raster.width, raster.height)
    return max(0, left), max(0, top), min(right, raster.width), min(bottom, raster.height)


def _starts(first: int, end: int, side: int, count: int) -> list[int]:
    """Where `count` squares begin along one edge: on multiples of their side, where there is the room."""
    room = max(0, end - first - side)
    if count == 1:
        return [first + room // 2]
    starts = [first + room * number // (count - 1) for number in range(count)]
    if room >= ACROSS * side:  # so that a tiled raster has to be read in few of its blocks
        starts = [max(first, start // side * side) for start in starts]
    return starts


def _square(ref: ImageRef, square: Window) -> ImageRef:
    name = ref.uri.rpartition("/")[2]
    return replace(ref, image_id=f"{name} (norms at {square.x}, {square.y})", window=square)


def _digest(ref: ImageRef) -> str:
    """Of the raster that a window is of, and of how it is read."""
    named = json.dumps([ref.source, ref.uri, ref.etag, ref.raster])
    return hashlib.sha256(named.encode()).hexdigest()[:32]
