"""With how much care a shard is run: as always, or so that an image which ends its process is found.

A process that ends takes with it what it knew, so what is known of a shard's deaths lies in the store
(`pipeline.poison`). After two attempts that began and did not end, a shard is run carefully:

- Its images are decoded in other processes, under limits of time and memory (`pipeline.children`). An image
  that ends such a process twice, or does not end, is the culprit; no attempt dies of it.
- Its batches are those of every run, so that a shard that is innocent (it shared a worker with one that is
  not, its machines were taken away) gets the same rows. But before a batch enters the model, a note of its
  images is put, and taken away when it is out. An attempt that dies leaves the note: next time each image of
  that batch enters the model alone first, for trial, then the batch as always. An image that was alone in the
  model when two attempts died is the culprit. Only what is inside the model is noted, so of two shards that a
  worker has in work only one is suspected. While one of them is careful the others decode elsewhere too: what
  ends the process then is not what they decode.

A culprit is recorded once, ends `failed` in this and every later attempt, and is not touched again.

So a shard is done after 2 deaths, whatever the number of its images that die in decoding, and 3 more for each
that dies in the model. A batch that dies as a whole, though none of its images does, is run image by image
after 3. Of anything else (tables that do not fit into memory) a shard is given up after 12 deaths, and 3 more
for each culprit; those before its last commit do not count, that it is retried now is no fault of theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from pipeline.children import Children, DeadlyImage
from pipeline.decode import DecodeLimits, Size, decode
from pipeline.pixels import Rgb
from pipeline.poison import Note, Past, at_key, convict, look_back, put_culprit, read_culprits
from pipeline.records import ImageRef
from pipeline.storage import Store
from pipeline.tiled.children import RasterChildren
from pipeline.tiled.pixels import WindowPixels
from pipeline.tiled.reading import WindowReader
from pipeline.watchdog import watching

CAREFUL_AFTER = 2
"""Attempts that may not end before the next is careful."""

BATCH_ALONE_AFTER = 3
"""Attempts that may die with a batch inside the model before it is only run image by image."""

GIVEN_UP_AFTER = 12
"""Attempts that may not end before a shard without a culprit is given up."""

DEATHS_OF_A_CULPRIT = 3

KILLED_IN_MODEL = "its process died, or did not end, with this image alone in the model"

MODEL_SECONDS = 3600.0
"""A batch that is inside the model for longer ends its process. The slowest take minutes, on one core."""


class ShardGivenUp(Exception):
    """Attempt after attempt at this shard ended with its process, and no image of it is to blame."""


class Poisonous(Exception):
    """An image that kills its process; the message says how."""


class Way(Enum):
    """How a batch goes through the model."""

    WHOLE = "at once"
    TRIED = "each image for trial, then at once"
    ALONE = "image by image"


class Care:
    """A shard in the usual way: decoded in the worker's own process, within a time, and nothing is noted."""

    def __init__(
        self, limits: DecodeLimits, shard: str = "", culprits: Mapping[str, str] | None = None
    ) -> None:
        self.limits, self.shard = limits, shard
        self.culprits = culprits or {}
        """Images known to kill their process, by id: how."""

    def decode(self, ref: ImageRef, data: bytes, least: Size | None = None) -> Rgb:
        """Decode an image of the shard; raises what `pipeline.decode.decode` does, and Poisonous."""
        with watching(f"decoding {ref.image_id!r} of shard {self.shard}", self.limits.seconds):
            return decode(data, self.limits, least)

    def window(self, ref: ImageRef, windows: WindowReader) -> WindowPixels:
        """Read a window of the shard; raises what `WindowReader.read` does, and Poisonous."""
        with watching(f"reading {ref.image_id!r} of shard {self.shard}", self.limits.seconds):
            return windows.read(ref, self.limits, lambda data: decode(data, self.limits))

    def way(self, images: Sequence[str]) -> Way:
        """How a batch of these images, named by their ids, is to go through the model."""
        return Way.WHOLE

    @property
    def overlaps(self) -> bool:
        """Whether a batch may enter the model while the one before is still encoded."""
        return True

    @contextmanager
    def behind(self, images: Sequence[str]) -> Iterator[None]:
        """Around the time that what the model said of these images is encoded, in the thread that does it."""
        with watching(f"encoding a batch of {len(images)} images of shard {self.shard}", MODEL_SECONDS):
            yield

    @contextmanager
    def inside(self, images: Sequence[str]) -> Iterator[None]:
        """Around the time that these images are inside the model, in the thread that runs it."""
        with watching(f"a batch of {len(images)} images of shard {self.shard} in the model", MODEL_SECONDS):
            yield


class Careful(Care):
    """A shard that attempts died at."""

    def __init__(
        self,
        limits: DecodeLimits,
        shard: str,
        culprits: Mapping[str, str],
        store: Store,
        attempt: str,
        worker: str,
        past: Past,
    ) -> None:
        super().__init__(limits, shard, culprits)
        self._store, self._attempt, self._worker, self._past = store, attempt, worker, past
        self._children, self._rasters = Children(limits), RasterChildren(limits)

    def decode(self, ref: ImageRef, data: bytes, least: Size | None = None) -> Rgb:
        """The same in another process; who ends that is recorded. Raises ChildError and StoreError too."""
        try:
            return self._children.decode(data, least)
        except DeadlyImage as death:
            what = put_culprit(self._store, self.shard, self._attempt, ref.image_id, str(death))
            raise Poisonous(what) from None

    def window(self, ref: ImageRef, windows: WindowReader) -> WindowPixels:
        """The same in other processes; raises as `decode` does."""
        try:
            return windows.read(ref, self.limits, self._children.decode, self._rasters.window)
        except DeadlyImage as death:
            what = put_culprit(self._store, self.shard, self._attempt, ref.image_id, str(death))
            raise Poisonous(what) from None

    def way(self, images: Sequence[str]) -> Way:
        """As the deaths of earlier attempts say."""
        deaths = self._past.deaths(images)
        if len(images) == 1 or not deaths:
            return Way.WHOLE
        return Way.TRIED if deaths < BATCH_ALONE_AFTER else Way.ALONE

    @property
    def overlaps(self) -> bool:
        """Never: the note says what is in the model, and what ends the process may be its encoding."""
        return False

    @contextmanager
    def inside(self, images: Sequence[str]) -> Iterator[None]:
        """With a note of them in the store. Raises StoreError."""
        key = at_key(self.shard, self._attempt)
        self._store.put(key, Note(self._attempt, self._worker, tuple(images), time.time()).to_json())
        try:
            with super().inside(images):
                yield
        finally:
            self._store.delete([key])

    def close(self) -> None:
        """End the processes that decode."""
        self._children.close()
        self._rasters.close()


class Quiet:
    """In one worker's process: nothing is decoded in it while one of its shards is careful."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._careful = self._decoding = 0

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Around a careful shard, which begins when what is decoded here by now is done."""
        with self._changed:
            self._careful += 1
            self._changed.wait_for(lambda: not self._decoding)
        try:
            yield
        finally:
            with self._changed:
                self._careful -= 1

    @contextmanager
    def here(self) -> Iterator[bool]:
        """Around decoding: whether it may be done in this process."""
        with self._changed:
            may = not self._careful
            self._decoding += may
        try:
            yield may
        finally:
            with self._changed:
                self._decoding -= may
                self._changed.notify_all()


class Beside(Care):
    """A shard in the usual way, but decoded elsewhere while another of its worker's is careful."""

    def __init__(self, careful: Careful, quiet: Quiet) -> None:
        super().__init__(careful.limits, careful.shard, careful.culprits)
        self._careful, self._quiet = careful, quiet

    def decode(self, ref: ImageRef, data: bytes, least: Size | None = None) -> Rgb:
        """Here or in another process; raises as `Careful.decode` does."""
        with self._quiet.here() as here:
            return super().decode(ref, data, least) if here else self._careful.decode(ref, data, least)

    def window(self, ref: ImageRef, windows: WindowReader) -> WindowPixels:
        """Here or in other processes; raises as `decode` does."""
        with self._quiet.here() as here:
            return super().window(ref, windows) if here else self._careful.window(ref, windows)


class Carer:
    """Decides, for one worker, how each of its shards is run."""

    def __init__(self, store: Store, worker: str, limits: DecodeLimits) -> None:
        self._store, self._worker, self._limits = store, worker, limits
        self._quiet = Quiet()

    @contextmanager
    def care(self, shard: str, attempt: str, since: str = "") -> Iterator[Care]:
        """How an attempt that has begun is run, as what happened to the shard before says.

        `since` is the attempt that committed the shard, when it is done again: deaths before that make it a
        careful one, and do not give it up. Raises ShardGivenUp, LedgerError and StoreError.
        """
        past = look_back(self._store, shard, attempt, since)
        culprits = read_culprits(self._store, shard)
        if past.unfinished >= CAREFUL_AFTER:
            for image in convict(self._store, shard, past, culprits):
                culprits[image] = put_culprit(self._store, shard, attempt, image, KILLED_IN_MODEL)
            _demand_hope(self._store, shard, past, culprits)
        careful = Careful(self._limits, shard, culprits, self._store, attempt, self._worker, past)
        try:
            if past.unfinished < CAREFUL_AFTER:
                yield Beside(careful, self._quiet)
            else:
                with self._quiet.wanted():
                    yield careful
        finally:
            careful.close()


def demand_hope(store: Store, shard: str, attempt: str, since: str = "") -> None:
    """Raise ShardGivenUp when too many attempts died at a shard that has no images to blame, of stitching.

    `since` as for `Carer.care`.
    """
    _demand_hope(store, shard, look_back(store, shard, attempt, since), {})


def _demand_hope(store: Store, shard: str, past: Past, culprits: Mapping[str, str]) -> None:
    if past.lately >= GIVEN_UP_AFTER + DEATHS_OF_A_CULPRIT * len(culprits):
        raise ShardGivenUp(
            f"{past.lately} attempts at shard {shard} began and did not end: their processes died, "
            "perhaps of too little memory, and no image is to blame. The workers' logs may tell; to have "
            f"it tried again, remove {store.join(f'_attempts/{shard}/')}"
        )
