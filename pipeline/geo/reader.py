"""Rasters opened from their headers and read by windows: only the blocks a window needs leave the store."""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window as GdalWindow

from pipeline.geo.gdalfile import NAME, GdalFolder
from pipeline.geo.header import RasterHeader, check_level, check_tags, read_header
from pipeline.geo.ranges import Pages, Ranged
from pipeline.geo.windows import inside
from pipeline.records import InputRejected, Status, Window
from pipeline.storage import Store
from pipeline.tiff import as_sample, refusal
from pipeline.watchdog import paused, unhurried

# GDAL asks once in a process, and would take a twentieth of the machine's memory for decoded blocks.
os.environ.setdefault("GDAL_CACHEMAX", str(256 << 20))

HANDLES = 4
"""Threads that may read one raster at the same time: each needs a GDAL dataset of its own."""
_REQUESTS = 8
_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": str(64 << 20),  # so that a window's blocks are asked for at once
}
_opening = threading.Lock()
# rasterio keeps the files it opened in a context variable: closed in another thread's context, they would be
# looked for in vain, and with the thread that opened them they would be freed under GDAL's hands.
_context = contextvars.Context()
# What is to be closed. A raster that is collected may only be put here: the collector runs anywhere, also in
# a thread that holds the lock.
_unused: deque[_Handle] = deque()
_names = count()


@dataclass(frozen=True)
class View:
    """A raster at the scale it is segmented at: its own, or that of a `resolution` asked for.

    Windows are in this view's pixels, and so is everything found in them. Plain values, for the plan.
    """

    width: int
    height: int
    level: int | None
    """The overview that is read, from 0 for the largest; None for the raster itself."""
    level_width: int
    """Pixels of what is read, which `width` and `height` may be a fraction of."""
    level_height: int

    @property
    def resampled(self) -> bool:
        """Whether pixels are computed, not copied."""
        return (self.width, self.height) != (self.level_width, self.level_height)


@dataclass(frozen=True)
class Pixels:
    """A window as stored."""

    samples: NDArray[Any]
    """(bands, height, width); zero where nothing is valid."""
    valid: NDArray[np.bool_]
    """(height, width) false for nodata, masked and transparent pixels, and NaN."""


@dataclass
class _Handle:
    level: int | None
    folder: GdalFolder
    source: DatasetReader


class Raster:
    """One GeoTIFF or COG of a store. Safe in threads: at most `HANDLES` read at the same time.

    Side files (`.aux.xml`, `.ovr`, `.msk`, `.tfw`) are not looked for. Methods raise StoreError where the
    store cannot be read, InputRejected where this file cannot.
    """

    def __init__(self, data: Ranged) -> None:
        """Read the header. Raises InputRejected: `unsupported`, `corrupt` or `too_large`."""
        self._data = data
        self._slots = threading.BoundedSemaphore(HANDLES)
        self._idle: list[_Handle] = []
        # rasterio must not be left to close them when they are collected: see `_context`.
        self._finish = weakref.finalize(self, _abandon, self._idle)
        self._finish.atexit = False
        _rasters.add(self)
        self._lock = threading.Lock()
        self._closed = False
        self._tags = check_tags(data)
        with self._dataset(None) as source:
            self.header: RasterHeader = read_header(source, self._tags)

    @property
    def view(self) -> View:
        """The raster at its own scale."""
        return View(self.header.width, self.header.height, None, self.header.width, self.header.height)

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height of an overview, from 0 for the largest."""
        with self._dataset(level) as source:
            return source.width, source.height

    def palette(self, band: int) -> NDArray[np.uint8] | None:
        """(entries, 3) colours of a band's values; None where they are no indices."""
        if self.header.colours[band - 1] != ColorInterp.palette:
            return None
        with self._dataset(None) as source:
            colours = source.colormap(band)
        table = np.zeros((1 << 8 * np.dtype(self.header.dtypes[band - 1]).itemsize, 3), np.uint8)
        for index, colour in colours.items():
            table[index] = colour[:3]
        return table

    def read(self, bands: Sequence[int], window: Window, view: View | None = None) -> Pixels:
        """One window of some bands; where it reaches beyond the raster, what of it lies inside.

        Raises ValueError for a window that lies outside altogether.
        """
        view = view or self.view
        part = inside(window, view.width, view.height)
        if not part.width or not part.height:
            raise ValueError(f"{window} lies outside {self._data.uri} of {view.width}x{view.height} pixels")
        return Pixels(*self._read(bands, part, view))

    def close(self) -> None:
        """Let go of GDAL's datasets, now and when the reads under way are done."""
        with self._lock:
            self._closed = True
            _abandon(self._idle)
        _close_unused()

    def _read(self, bands: Sequence[int], part: Window, view: View) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        x_scale, y_scale = view.level_width / view.width, view.level_height / view.height
        options: dict[str, Any] = {
            "window": GdalWindow(
                part.x * x_scale, part.y * y_scale, part.width * x_scale, part.height * y_scale
            )
        }
        if view.resampled:
            options["resampling"] = self._resampling(bands, max(x_scale, y_scale))
        shape = (len(bands), part.height, part.width)
        with self._dataset(view.level) as source:
            valid = np.ones(shape[1:], np.bool_)
            if self.header.masked:
                masks = source.read_masks(
                    bands[0], window=options["window"], out_shape=shape[1:], resampling=Resampling.nearest
                )
                valid = masks > 0
                if not valid.any():  # the colours need not even be fetched
                    return np.zeros(shape, source.dtypes[bands[0] - 1]), valid
            samples: NDArray[Any] = source.read(list(bands), out_shape=shape, **options)
        return samples, valid & self._holds_data(samples)

    def _resampling(self, bands: Sequence[int], scale: float) -> Resampling:
        if self.header.colours[bands[0] - 1] == ColorInterp.palette:
            return Resampling.nearest
        return Resampling.average if scale > 1 else Resampling.bilinear

    def _holds_data(self, samples: NDArray[Any]) -> NDArray[np.bool_]:
        """(height, width) where any band is not the nodata value, and all are finite."""
        valid = np.ones(samples.shape[1:], np.bool_)
        if self.header.nodata is not None:
            nodata = as_sample(self.header.nodata, samples.dtype)
            if nodata is not None:
                valid = np.logical_or.reduce([band != nodata for band in samples])
        if samples.dtype.kind == "f":
            valid &= np.isfinite(samples).all(axis=0)
        return valid

    @contextmanager
    def _dataset(self, level: int | None) -> Iterator[DatasetReader]:
        """A dataset of the raster or of an overview, for this thread alone."""
        with unhurried(self._slots), rasterio.Env(session=DummySession(), **_SETTINGS):
            handle = None
            folder = GdalFolder(self._data)
            try:
                handle = self._take(level) or self._open(level, folder)
                folder = handle.folder
                yield handle.source
            except (RasterioError, CPLE_BaseError) as error:
                if folder.fault is None:
                    raise InputRejected(*refusal(error)) from None
            finally:
                if handle is not None:
                    self._give_back(handle)
            if folder.fault is not None:
                raise folder.fault

    def _take(self, level: int | None) -> _Handle | None:
        with self._lock:
            for at, handle in enumerate(self._idle):
                if handle.level == level:
                    return self._idle.pop(at)
        return None

    def _give_back(self, handle: _Handle) -> None:
        """Keep a dataset for the next read: not one that was given zeros, nor more than can be used."""
        with self._lock:
            keep = handle.folder.fault is None and not self._closed
            if keep:
                self._idle.append(handle)
            surplus = self._idle.pop(0) if len(self._idle) > HANDLES else None if keep else handle
        if surplus is not None:
            _unused.append(surplus)
            _close_unused()

    def _open(self, level: int | None, folder: GdalFolder) -> _Handle:
        options = {} if level is None else {"overview_level": level}
        _close_unused()
        with unhurried(_opening):
            path = f"{next(_names)}/{NAME}"
            source = _context.run(
                rasterio.open, path, opener=folder, driver="GTiff", sharing=False, **options
            )
        handle = _Handle(level, folder, source)
        try:
            check_level(source)
        except InputRejected:
            _unused.append(handle)
            raise
        return handle


_rasters: weakref.WeakSet[Raster] = weakref.WeakSet()


def _abandon(handles: list[_Handle]) -> None:
    while handles:
        _unused.append(handles.pop())


def _close_unused() -> None:
    with unhurried(_opening):
        while _unused:
            _context.run(_unused.popleft().source.close)


@atexit.register
def _close_rasters() -> None:
    for raster in list(_rasters):
        raster.close()
    _close_unused()


class Rasters:
    """The rasters a worker reads, opened when they are first asked for; those last used stay open."""

    def __init__(self, cache_bytes: int = 128 << 20, most: int = 16) -> None:
        """`cache_bytes` of fetched pages are kept, and `most` rasters open."""
        self._pages = Pages(cache_bytes)
        self._threads = ThreadPoolExecutor(_REQUESTS, "range")
        self._open: dict[tuple[Store, str, str | None], Raster] = {}
        self._most = most
        self._lock = threading.Lock()

    def get(self, store: Store, key: str, etag: str | None = None) -> Raster:
        """The raster under a key of a store; `etag` is what it was planned with.

        Raises StoreError, or InputRejected: `missing` for an object that was changed since, and whatever
        `Raster` raises.
        """
        with self._lock:
            raster = self._open.pop((store, key, etag), None)
            if raster is not None:
                self._open[store, key, etag] = raster
                return raster
        with paused():
            info = store.head(key)
        if etag is not None and info.etag is not None and info.etag != etag:
            raise InputRejected(Status.MISSING, f"changed since the plan (etag {etag} -> {info.etag})")
        raster = Raster(Ranged(store, key, info.size, self._pages, self._threads, info.etag))
        with self._lock:
            kept = self._open.setdefault((store, key, etag), raster)  # another thread may have been quicker
            surplus = None if kept is raster else raster
            if len(self._open) > self._most:
                surplus = self._open.pop(next(iter(self._open)))
        if surplus is not None:
            surplus.close()
        return kept

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            rasters, self._open = list(self._open.values()), {}
        for raster in rasters:
            raster.close()
        self._threads.shutdown()


def open_raster(store: Store, key: str) -> Raster:
    """Open one raster by itself, as planning does. Raises as `Rasters.get`."""
    info = store.head(key)
    return Raster(Ranged(store, key, info.size, Pages(32 << 20), etag=info.etag))
