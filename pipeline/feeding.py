"""Inputs on their way to the model: fetched and decoded ahead in threads, handed on in manifest order."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from condinst.preprocess import Prepared
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits, decode
from pipeline.inputs import Inputs
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.rows import Outcome
from pipeline.storage import StoreError

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

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of its network input."""
        return self.prepared.padded

    @property
    def held(self) -> int:
        """Bytes its pixels take."""
        return self.prepared.pixels.nbytes


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
        prepare: Callable[[NDArray[np.uint8]], Prepared],
        limits: DecodeLimits,
        images: int,
        bytes: int,
        decoders: int,
    ) -> None:
        self._inputs, self._prepare, self._limits = inputs, prepare, limits
        self._images, self._bytes = images, bytes
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")
        self._decoders = ThreadPoolExecutor(decoders, "decode")

    def close(self) -> None:
        """End the threads once what they have begun is done."""
        self._fetchers.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def stream(self, refs: Sequence[ImageRef], clock: Clock) -> Iterator[Ready | Refused]:
        """A shard's inputs in order. At most `images` of them, and about `bytes` bytes, are held ahead.

        Raises StoreError when an input's store as a whole cannot be read: that says nothing about the input.
        """
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
                ahead.append(self._begin(index, ref, clock))
            while ahead:
                yield _take(ahead, clock)
        finally:
            for pending in ahead:
                pending.future.cancel()

    def _full(self, ahead: Sequence[_Pending], expected: int) -> bool:
        held = sum(pending.held(expected) for pending in ahead)
        return len(ahead) >= self._images or held + expected > self._bytes

    def _begin(self, index: int, ref: ImageRef, clock: Clock) -> _Pending:
        future: Future[Ready | Refused] = Future()
        self._fetchers.submit(self._fetch, index, ref, clock, future)
        return _Pending(future, ref.bytes or 0)

    def _fetch(self, index: int, ref: ImageRef, clock: Clock, future: Future[Ready | Refused]) -> None:
        """In a fetching thread: the bytes; then it is a decoding thread's turn."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            with clock.stage("fetch"):
                data, etag = self._inputs.fetch(ref, self._limits.bytes)
        except StoreError as error:
            future.set_exception(error)
        except Exception as error:
            future.set_result(Refused(index, _refusal(Outcome(ref, Status.FAILED), error)))
        else:
            outcome = Outcome(ref, Status.EMPTY, bytes=len(data), etag=etag)
            try:
                self._decoders.submit(self._decode, index, outcome, data, clock, future)
            except RuntimeError as error:  # the worker is being closed
                future.set_exception(error)

    def _decode(
        self, index: int, outcome: Outcome, data: bytes, clock: Clock, future: Future[Ready | Refused]
    ) -> None:
        """In a decoding thread: the pixels, at the model's scale."""
        start = time.monotonic()
        try:
            with clock.stage("decode"):
                image = decode(data, self._limits)
            outcome = replace(outcome, size=(image.shape[0], image.shape[1]))
            with clock.stage("prepare"):
                prepared = self._prepare(image)
        except Exception as error:
            future.set_result(Refused(index, _refusal(outcome, error)))
        else:
            outcome = replace(outcome, decode_ms=(time.monotonic() - start) * 1000)
            future.set_result(Ready(index, outcome, prepared))


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


def describe(error: BaseException) -> str:
    """An unexpected error as a reason in a row: its type and its message's first line.

    Addresses differ from run to run, and the tables of two runs must not.
    """
    message = re.sub(r" at 0x[0-9a-f]+", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
