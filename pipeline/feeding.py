"""Inputs on their way to the model: fetched and decoded ahead in threads, handed on in manifest order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from condinst.preprocess import Prepared
from pipeline.care import Care, Poisonous
from pipeline.children import ChildError
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits, Size, jpeg_size
from pipeline.inputs import Inputs
from pipeline.records import ImageRef, InputRejected, Status, describe
from pipeline.rows import Outcome
from pipeline.storage import StoreError
from pipeline.tiled.pixels import WindowPixels, framed
from pipeline.tiled.reading import WindowReader, lacking_data

Prepare = Callable[[NDArray[np.uint8], Size | None], Prepared]
"""Resizes an image for the network; the size is that of the image itself, where the pixels are fewer."""

FETCHERS = 16
"""Requests in flight of one worker."""

FIRST_GUESS = 8
"""Until a shard's first image is prepared, each is taken to need this part of the shard's bytes ahead."""


@dataclass(frozen=True)
class Ready:
    """One input that is decoded and waits for its batch."""

    index: int
    """Place in the shard."""
    outcome: Outcome
    """What is known of it; `empty` until the model has spoken."""
    prepared: Prepared
    valid: NDArray[np.bool_] | None = None
    """Of a window: (height, width) false where its pixels hold no data; None where all do."""
    frame: tuple[int, int] | None = None
    """Of a window: pixels left of and above those of its raster; None where nothing is around these."""

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of its network input."""
        return self.prepared.padded

    @property
    def held(self) -> int:
        """Bytes its pixels take."""
        return self.prepared.pixels.nbytes + (0 if self.valid is None else self.valid.nbytes)


@dataclass(frozen=True)
class Refused:
    """One input that costs its own row and nothing else."""

    index: int
    outcome: Outcome


class Feeder:
    """The threads that fetch and decode for one worker, shared by the shards it has in flight."""

    def __init__(
        self,
        inputs: Inputs,
        prepare: Prepare,
        limits: DecodeLimits,
        images: int,
        bytes: int,
        decoders: int,
        windows: WindowReader | None = None,
        least: Callable[[Size], Size] | None = None,
    ) -> None:
        """`windows` reads those of rasters, in jobs that have any.

        `least` gives the (height, width) that a JPEG of some size is decoded to at least; None for all of it.
        """
        self._least = least
        self._inputs, self._prepare, self._limits = inputs, prepare, limits
        self._windows = windows
        self._images, self._bytes = images, bytes
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")
        self._decoders = ThreadPoolExecutor(decoders, "decode")

    def close(self) -> None:
        """End the threads once what they have begun is done."""
        self._fetchers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)
        if self._windows is not None:
            self._windows.close()

    def stream(
        self, refs: Sequence[ImageRef], clock: Clock, care: Care | None = None
    ) -> Iterator[Ready | Refused]:
        """A shard's inputs in order. At most `images` of them, and about `bytes` bytes, are held ahead.

        Raises StoreError when an input's store as a whole cannot be read, ChildError when there is no process
        to decode in: neither says anything about the input.
        """
        care = care or Care(self._limits, clock.shard)
        ahead: deque[_Pending] = deque()
        expected = self._bytes // FIRST_GUESS
        known = False
        try:
            for index, ref in enumerate(refs):
                while ahead and self._full(ahead, expected):
                    item = _take(ahead, clock)
                    if isinstance(item, Ready):
                        expected = max(item.held, expected) if known else item.held
                        known = True
                    yield item
                ahead.append(self._begin(_Task(index, ref, clock, care)))
            while ahead:
                yield _take(ahead, clock)
        finally:
            for pending in ahead:
                pending.future.cancel()

    def _full(self, ahead: Sequence[_Pending], expected: int) -> bool:
        held = sum(pending.held(expected) for pending in ahead)
        return len(ahead) >= self._images or held + expected > self._bytes

    def _begin(self, task: _Task) -> _Pending:
        if (how := task.care.culprits.get(task.ref.image_id)) is not None:
            task.future.set_result(_poisonous(task, how))
        else:
            self._fetchers.submit(self._fetch, task)
        return _Pending(task.future, task.ref.bytes or 0)

    def _fetch(self, task: _Task) -> None:
        """In a fetching thread: the bytes; then it is a decoding thread's turn."""
        if not task.future.set_running_or_notify_cancel():
            return
        if self._windows is not None:
            self._read_window(task, self._windows)
            return
        try:
            with task.clock.stage("fetch"):
                data, etag = self._inputs.fetch(task.ref, self._limits.bytes)
        except StoreError as error:
            task.future.set_exception(error)
        except Exception as error:
            task.future.set_result(Refused(task.index, _refusal(Outcome(task.ref, Status.FAILED), error)))
        else:
            outcome = Outcome(task.ref, Status.EMPTY, bytes=len(data), etag=etag)
            self._hand_on(task, self._decode, task, outcome, data)

    def _read_window(self, task: _Task, windows: WindowReader) -> None:
        """In a fetching thread: a window's pixels, of which fetching is the slower part."""
        start = time.monotonic()
        try:
            with task.clock.stage("fetch"):
                pixels = task.care.window(task.ref, windows)
        except (StoreError, ChildError) as error:
            task.future.set_exception(error)
        except Poisonous as error:
            task.future.set_result(_poisonous(task, str(error)))
        except Exception as error:
            task.future.set_result(Refused(task.index, _refusal(Outcome(task.ref, Status.FAILED), error)))
        else:
            size = (pixels.rgb.shape[0], pixels.rgb.shape[1])
            lacking = lacking_data(pixels)
            outcome = Outcome(task.ref, Status.EMPTY, error=lacking, etag=task.ref.etag, size=size)
            self._hand_on(task, self._prepare_window, task, outcome, pixels, start)

    def _prepare_window(self, task: _Task, outcome: Outcome, pixels: WindowPixels, start: float) -> None:
        """In a decoding thread: a window's pixels at the model's scale."""
        try:
            assert self._windows is not None
            assert task.ref.window is not None
            with task.clock.stage("prepare"):
                whole = framed(pixels, task.ref.window, self._windows.multiple)
                prepared = self._prepare(whole.rgb, None)
        except Exception as error:
            task.future.set_result(Refused(task.index, _refusal(outcome, error)))
        else:
            outcome = replace(outcome, decode_ms=(time.monotonic() - start) * 1000)
            frame = None if whole.rgb is pixels.rgb else (whole.left, whole.top)
            task.future.set_result(Ready(task.index, outcome, prepared, whole.valid, frame))

    def _hand_on(self, task: _Task, work: Callable[..., None], *arguments: object) -> None:
        """Give a decoding thread its turn."""
        try:
            self._decoders.submit(work, *arguments)
        except RuntimeError as error:  # the worker is being closed
            task.future.set_exception(error)

    def _decode(self, task: _Task, outcome: Outcome, data: bytes) -> None:
        """In a decoding thread: the pixels, at the model's scale."""
        start = time.monotonic()
        try:
            full = None if self._least is None else jpeg_size(data)
            with task.clock.stage("decode"):
                least = None if full is None or self._least is None else self._least(full)
                image = task.care.decode(task.ref, data, least)
            size = full or (image.shape[0], image.shape[1])
            outcome = replace(outcome, size=size)
            with task.clock.stage("prepare"):
                prepared = self._prepare(image, size)
        except (StoreError, ChildError) as error:
            task.future.set_exception(error)
        except Poisonous as error:
            task.future.set_result(_poisonous(task, str(error)))
        except Exception as error:
            task.future.set_result(Refused(task.index, _refusal(outcome, error)))
        else:
            outcome = replace(outcome, decode_ms=(time.monotonic() - start) * 1000)
            task.future.set_result(Ready(task.index, outcome, prepared))


@dataclass(frozen=True)
class _Task:
    index: int
    ref: ImageRef
    clock: Clock
    care: Care
    future: Future[Ready | Refused] = field(default_factory=Future)


@dataclass(frozen=True)
class _Pending:
    future: Future[Ready | Refused]
    declared: int
    """Bytes the plan says it has."""

    def held(self, expected: int) -> int:
        """Bytes it takes, or may come to take."""
        if self.future.done() and not self.future.cancelled() and self.future.exception() is None:
            item = self.future.result()
            return item.held if isinstance(item, Ready) else 0
        return max(self.declared, expected)


def _take(ahead: deque[_Pending], clock: Clock) -> Ready | Refused:
    with clock.stage("wait"):
        return ahead.popleft().future.result()


def _refusal(outcome: Outcome, error: Exception) -> Outcome:
    """The input's row: as rejected, or `failed` with what went wrong."""
    if isinstance(error, InputRejected):
        return replace(outcome, status=error.status, error=error.reason)
    return replace(outcome, status=Status.FAILED, error=describe(error))


def _poisonous(task: _Task, how: str) -> Refused:
    """The same row in the attempt that finds it out and in those that do not even fetch it."""
    return Refused(task.index, Outcome(task.ref, Status.FAILED, error=how))
