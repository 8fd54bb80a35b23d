"""What a shard costs, by stage; filled from the threads that work for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.commit import Work
from pipeline.steps import Step, reached

STAGES = ("wait", "fetch", "decode", "prepare", "model", "encode", "write", "commit")

_ANNOUNCED: dict[str, Step] = {"fetch": "fetch", "decode": "decode", "encode": "encode"}
_UNIX = time.time() - time.monotonic()
"""Added to the monotonic clock gives Unix time, the same for every shard of this process."""


class Clock:
    """Seconds of one shard. Stages overlap and run in several threads, so they add up to more than passes.

    The stages that are steps (`pipeline.steps`) are announced as they begin.
    """

    def __init__(self, shard: str = "") -> None:
        self.shard = shard
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._first: float | None = None
        self._last: float | None = None
        self._batches = 0
        self._splits = 0
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block to a stage, however it ends."""
        if step := _ANNOUNCED.get(name):
            reached(step, self.shard)
        start = time.monotonic()
        with self._lock:
            self._under_way[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[name] -= 1
                self._seconds[name] += time.monotonic() - start

    def under_way(self, name: str) -> int:
        """How many threads are in a stage at the moment."""
        with self._lock:
            return self._under_way[name]

    def split(self) -> None:
        """Count a batch that goes through the model in parts."""
        with self._lock:
            self._splits += 1

    def batch(self, start: float, end: float) -> None:
        """Count a batch that was in the model between two readings of `time.monotonic`."""
        with self._lock:
            self._first = start if self._first is None else min(start, self._first)
            self._last = end if self._last is None else max(end, self._last)
            self._batches += 1
            self._seconds["model"] += end - start

    def finished(self, end: float) -> None:
        """Note when a batch that left the model was encoded too."""
        with self._lock:
            self._last = end if self._last is None else max(end, self._last)

    def work(self, worker: str) -> Work:
        """The account so far."""
        with self._lock:
            return Work(
                worker=worker,
                first=None if self._first is None else self._first + _UNIX,
                last=None if self._last is None else self._last + _UNIX,
                busy=self._seconds["model"],
                batches=self._batches,
                splits=self._splits,
                seconds=dict(self._seconds),
            )
