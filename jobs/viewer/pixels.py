"""A run's images as the browser gets them: through the run's own inputs and decoder, by number.

Nobody names a path: an image is a row of the run, its address that of the frozen plan, and it has to lie
where the run's inputs are. Only what the run itself decoded is decoded again; the file of another input is
given as it lies, for who decodes it in a process of its own.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from jobs.errors import JobError
from jobs.overlay import colour_of
from jobs.resolve import source_of, spec_of
from pipeline.decode import DecodeLimits, decode
from pipeline.geo.bands import to_rgb
from pipeline.geo.reader import Raster, Rasters, View
from pipeline.geo.windows import inside
from pipeline.inputs import Inputs
from pipeline.keys import locate
from pipeline.pixels import Rgb
from pipeline.plan import read_shard, shard_place
from pipeline.records import ImageRef, InputRejected, Status, Window
from pipeline.sources import InputSource
from pipeline.tables import Run
from pipeline.tiled.frozen import FrozenRaster, read_frozen

DECODED = (Status.OK, Status.EMPTY)
"""Statuses of the images that have pixels to show."""
THUMBNAIL = 288
"""Longest edge of a thumbnail in pixels."""
LOSSLESS = 4_200_000
"""Most pixels sent without loss."""
LARGEST = 4096**2
"""Most pixels of a part."""
READ = 400_000_000
"""Most pixels of a raster that are read for a part."""
_HELD = 512 << 20
"""Bytes of decoded images and of thumbnails that are kept."""


class Pictures:
    """The images of one run. Safe in threads; few are decoded at the same time."""

    def __init__(self, run: Run, sources: Sequence[InputSource], limits: DecodeLimits) -> None:
        self._run = run
        self._sources = tuple(sources)
        self._inputs = Inputs(sources)
        self._rasters = Rasters()
        self._limits = limits
        self._plans = {plan.generation: plan for plan in run.plans}
        self._held = _Held(_HELD)
        self._decoding = threading.BoundedSemaphore(2)

    @classmethod
    def of(cls, run: Run) -> Self:
        """Where `job.json` says that the run's images lie; a run that does not say it has none to show."""
        try:
            spec = spec_of(run.job, run.store)
        except JobError:
            return cls(run, (), DecodeLimits())
        limits = DecodeLimits(spec.limits.pixels, spec.limits.bytes, spec.limits.seconds)
        return cls(run, tuple(source_of(section) for section in spec.input), limits)

    @property
    def limits(self) -> DecodeLimits:
        """Those of the run."""
        return self._limits

    def file(self, row: Mapping[str, Any], most: int) -> bytes:
        """An input's file, whatever became of it in the run, of `most` bytes at most; not decoded.

        Raises InputRejected as `image`, StoreError, PlanError.
        """
        return self._inputs.fetch(self._known(row), most)[0]

    def image(self, row: Mapping[str, Any]) -> Rgb:
        """The upright pixels of an image, `row` as the index has it.

        Raises InputRejected, which says why, when the image has none, or cannot be had from here.
        """
        key = ("image", row["no"])
        if (kept := self._held.get(key)) is None:
            ref = self._ref(row)
            with self._decoding:
                data, _ = self._inputs.fetch(ref, self._limits.bytes)
                kept = self._held.put(key, decode(data, self._limits))
        return kept

    def part(self, row: Mapping[str, Any], window: Window, step: int = 1) -> Rgb:
        """A part of an image, each pixel the mean of `step` x `step`; of a tiled raster only what that needs.

        Raises InputRejected as `image`, ValueError for a part that lies outside or is larger than is served.
        """
        if step < 1 or window.width * window.height > LARGEST * step**2:
            raise ValueError(f"{window} at a step of {step} is more than {LARGEST:,} pixels")
        raster = self._raster(row)
        if raster is not None:
            return raster.part(window, step)
        rgb = self.image(row)
        part = rgb[window.y : window.y + window.height, window.x : window.x + window.width]
        if not part.size:
            raise ValueError(f"{window} lies outside the image of {rgb.shape[1]}x{rgb.shape[0]} pixels")
        return part if step == 1 else np.asarray(Image.fromarray(part).reduce(step))

    def window(self, row: Mapping[str, Any], window: Window, step: int) -> bytes:
        """The same as a file: PNG, or JPEG when it is large."""
        picture = Image.fromarray(self.part(row, window, step))
        if picture.width * picture.height <= LOSSLESS:
            return _encoded(picture, "PNG", compress_level=1)
        return _encoded(picture, "JPEG", quality=92, subsampling=0)

    def thumbnail(
        self, row: Mapping[str, Any], masks: Sequence[Mapping[str, Any]] = (), labels: Sequence[int] = ()
    ) -> bytes:
        """The image, small, as JPEG, with masks drawn in, the best last; `labels` choose their colours."""
        key = ("thumbnail", row["no"], len(masks))
        kept = self._held.get(key)
        if kept is None:
            size = row["height"] or 1, row["width"] or 1
            step = max(1, max(size) // (2 * THUMBNAIL))
            picture = Image.fromarray(self.part(row, Window(0, 0, size[1], size[0]), step))
            picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            small = np.array(picture)
            for number in reversed(range(len(masks))):
                _tint(small, masks[number], size, colour_of(labels[number], number))
            data = _encoded(Image.fromarray(small), "JPEG", quality=82)
            kept = self._held.put(key, np.frombuffer(data, np.uint8))
        return kept.tobytes()

    def _raster(self, row: Mapping[str, Any]) -> _Raster | None:
        """The image as a raster that was cut into windows; None for one that is decoded as a whole."""
        ref = self._ref(row)
        frozen = None if ref.raster is None else read_frozen(ref.raster)
        if frozen is None or frozen.photograph:
            return None
        return _Raster(self._rasters.get(*self._inputs.find(ref), ref.etag), frozen)

    @lru_cache(maxsize=1024)  # noqa: B019  # as long as the viewer lives
    def _planned(self, shard: str, image_id: str) -> ImageRef | None:
        generation, number = shard_place(shard)
        refs = read_shard(self._run.store, self._plans[generation], number)
        return next((ref for ref in refs if ref.image_id == image_id), None)

    def _ref(self, row: Mapping[str, Any]) -> ImageRef:
        """The plan's entry of a row. Raises InputRejected where there is nothing that may be shown."""
        if row["status"] not in DECODED:
            raise InputRejected(Status(row["status"]), row["error"] or "it was not decoded")
        return self._known(row)

    def _known(self, row: Mapping[str, Any]) -> ImageRef:
        """The same of an input that was not decoded, too."""
        ref = self._planned(self._run.shards[row["shard"]], row["image_id"])
        if ref is None:
            raise InputRejected(Status.MISSING, "the plan does not have it any more")
        if not 0 <= ref.source < len(self._sources):
            raise InputRejected(Status.MISSING, "job.json does not say where the run's inputs lie")
        source = self._sources[ref.source]
        if not source.manifest and not _inside(ref.uri, source.uri):
            raise InputRejected(Status.MISSING, "it does not lie in the run's inputs")
        return ref


@dataclass(frozen=True)
class _Raster:
    """A raster of a tiled job, at the scale that it was segmented at and at coarser ones."""

    raster: Raster
    frozen: FrozenRaster

    def part(self, window: Window, step: int) -> Rgb:
        """As `Pictures.part`: from the overview that comes nearest."""
        view = self._view(step)
        x, y = window.x // step, window.y // step
        across, down = -(-window.width // step), -(-window.height // step)
        part = inside(Window(x, y, across, down), view.width, view.height)
        share = part.width * part.height / (view.width * view.height)
        if share * view.level_width * view.level_height > READ:
            raise InputRejected(
                Status.TOO_LARGE, "it has no overviews to show it whole by (gdaladdo adds them); zoom in"
            )
        colours = self.frozen.colours
        pixels = self.raster.read(colours.bands, part, view)
        return to_rgb(pixels, colours, self.raster.palette(colours.bands[0]))

    def _view(self, step: int) -> View:
        own = self.frozen.view
        if step == 1:
            return own
        width, height = -(-own.width // step), -(-own.height // step)
        header = self.raster.header
        ratio = header.width / width * 1.01
        coarser = [at for at, factor in enumerate(header.factors) if factor <= ratio]
        level = max(coarser, key=lambda at: header.factors[at], default=None)
        size = (header.width, header.height) if level is None else self.raster.level_size(level)
        return View(width, height, level, *size)


class _Held:
    """What was made last, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._kept: OrderedDict[tuple[object, ...], Rgb] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Rgb | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[object, ...], made: Rgb) -> Rgb:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += made.nbytes
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def _inside(uri: str, root: str) -> bool:
    """Whether a planned image lies below its input, or is it."""
    place, top = locate(uri, trim=False), locate(root)
    same = (place.scheme, place.bucket) == (top.scheme, top.bucket)
    return same and (place.path == top.path or place.path.startswith(f"{top.path}/" if top.path else ""))


def _tint(small: Rgb, mask: Mapping[str, Any], size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Blend a mask of an image of `size` into its thumbnail: the pixel in the middle of each of ours."""
    height, width = size
    rows = ((np.arange(small.shape[0]) + 0.5) * height / small.shape[0]).astype(int) - mask["y"]
    columns = ((np.arange(small.shape[1]) + 0.5) * width / small.shape[1]).astype(int) - mask["x"]
    down = np.flatnonzero((rows >= 0) & (rows < mask["height"]))
    across = np.flatnonzero((columns >= 0) & (columns < mask["width"]))
    if not len(down) or not len(across):
        return
    crop = coco.decode({"size": [mask["height"], mask["width"]], "counts": mask["counts"]})
    on = crop[np.ix_(rows[down], columns[across])][..., None] * np.float32(0.5)
    region = small[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    region[:] = (region * (1 - on) + np.array(colour, np.float32) * on).astype(np.uint8)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
