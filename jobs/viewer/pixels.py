"""A run's images as the browser gets them: through the run's own inputs and decoder, by number.

Nobody names a path: an image is a row of the run, its address that of the frozen plan, and it has to lie
where the run's inputs are. Only what the run itself decoded is decoded again.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from jobs.errors import JobError
from jobs.overlay import colour_of
from jobs.resolve import source_of, spec_of
from pipeline.decode import DecodeLimits, decode
from pipeline.inputs import Inputs
from pipeline.keys import locate
from pipeline.pixels import Rgb
from pipeline.plan import read_shard
from pipeline.records import ImageRef, InputRejected, Status, Window
from pipeline.sources import InputSource
from pipeline.tables import Run

DECODED = (Status.OK, Status.EMPTY)
"""Statuses of the images that have pixels to show."""
THUMBNAIL = 288
"""Longest edge of a thumbnail in pixels."""
LOSSLESS = 4_200_000
"""Most pixels sent without loss."""
_HELD = 512 << 20
"""Bytes of decoded images and of thumbnails that are kept."""


class Pictures:
    """The images of one run. Safe in threads; few are decoded at the same time."""

    def __init__(self, run: Run, sources: Sequence[InputSource], limits: DecodeLimits) -> None:
        self._run = run
        self._sources = tuple(sources)
        self._inputs = Inputs(sources)
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

    def image(self, row: Mapping[str, Any]) -> Rgb:
        """The upright pixels of an image, `row` as the index has it.

        Raises InputRejected, which says why, when the image has none, or cannot be had from here.
        """
        if row["status"] not in DECODED:
            raise InputRejected(Status(row["status"]), row["error"] or "it was not decoded")
        key = ("image", row["no"])
        if (kept := self._held.get(key)) is None:
            ref = self._ref(row)
            with self._decoding:
                data, _ = self._inputs.fetch(ref, self._limits.bytes)
                kept = self._held.put(key, decode(data, self._limits))
        return kept

    def window(self, row: Mapping[str, Any], window: Window, step: int) -> bytes:
        """A part of an image, each pixel the mean of `step` x `step`: PNG, or JPEG when it is large.

        Raises InputRejected as `image`, ValueError for a part that lies outside.
        """
        rgb = self.image(row)
        part = rgb[window.y : window.y + window.height, window.x : window.x + window.width]
        if not part.size or step < 1:
            raise ValueError(f"{window} lies outside the image of {rgb.shape[1]}x{rgb.shape[0]} pixels")
        picture = Image.fromarray(part)
        if step > 1:
            picture = picture.reduce(step)
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
            rgb = self.image(row)
            picture = Image.fromarray(rgb)
            picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            small = np.array(picture)
            for number in reversed(range(len(masks))):
                _tint(small, masks[number], rgb.shape[:2], colour_of(labels[number], number))
            kept = self._held.put(
                key, np.frombuffer(_encoded(Image.fromarray(small), "JPEG", quality=82), np.uint8)
            )
        return kept.tobytes()

    def _ref(self, row: Mapping[str, Any]) -> ImageRef:
        """The plan's entry of a row. Raises InputRejected where it points away from the run's inputs."""
        shard = self._run.commits[row["shard"]].shard
        generation, _, number = shard.partition("-")
        refs = read_shard(self._run.store, self._plans[int(generation)], int(number))
        ref = next((ref for ref in refs if ref.image_id == row["image_id"]), None)
        if ref is None:
            raise InputRejected(Status.MISSING, "the plan does not have it any more")
        if not 0 <= ref.source < len(self._sources):
            raise InputRejected(Status.MISSING, "job.json does not say where the run's inputs lie")
        source = self._sources[ref.source]
        if not source.manifest and not _inside(ref.uri, source.uri):
            raise InputRejected(Status.MISSING, "it does not lie in the run's inputs")
        return ref


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
