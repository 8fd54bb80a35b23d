"""Signs of life: what each worker is doing, where whoever looks for a stalled run can read it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pipeline.clock import Clock
from pipeline.steps import Step, listen
from pipeline.storage import Store, StoreError

INTERVAL = 10.0
"""Seconds between two signs."""

_log = logging.getLogger(__name__)


def new_worker_id() -> str:
    """A name for a worker that nobody has: its machine, its process, and some chance."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def progress_key(worker: str) -> str:
    """Key of a worker's sign of life below the output."""
    return f"_progress/{worker}.json"


def clear_progress(store: Store, workers: Iterable[str]) -> None:
    """Take away the signs of workers that are gone and could not do it themselves."""
    with suppress(StoreError):
        store.delete([progress_key(worker) for worker in workers])


class Progress:
    """Puts one small object every ten seconds while its worker lives."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store, self._worker = store, worker
        self._started = time.time()
        self._lock = threading.Lock()
        self._shards: dict[str, _InWork] = {}
        self._images = 0
        self._deaf = listen(self._hear)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    @contextmanager
    def shard(self, shard: str, images: int, clock: Clock) -> Iterator[None]:
        """Show a shard as in work."""
        with self._lock:
            self._shards[shard] = _InWork(images, clock)
        try:
            yield
        finally:
            with self._lock:
                del self._shards[shard]

    def advance(self, shard: str, images: int) -> None:
        """Count images of a shard as done."""
        with self._lock:
            self._shards[shard].done += images
            self._images += images

    def close(self) -> None:
        """Take the sign away: this worker ends in good order."""
        self._closed.set()
        self._thread.join()
        self._deaf()
        clear_progress(self._store, [self._worker])

    def _hear(self, step: Step, shard: str) -> None:
        with self._lock:
            if (working := self._shards.get(shard)) is not None:
                working.step, working.step_since = step, time.time()

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                self._store.put(progress_key(self._worker), self._sign())
            except StoreError as error:
                # Rows do not hang on it, and the shard's own requests tell of a store that is gone.
                _log.debug("progress not written: %s", error)

    def _sign(self) -> bytes:
        with self._lock:
            return json.dumps(
                {
                    "worker": self._worker,
                    "time": time.time(),
                    "started": self._started,
                    "images": self._images,
                    "shards": {shard: working.sign() for shard, working in self._shards.items()},
                }
            ).encode()


@dataclass
class _InWork:
    images: int
    clock: Clock
    since: float = field(default_factory=time.time)
    done: int = 0
    step: Step | None = None
    """The last that was reached; None before the first."""
    step_since: float = field(default_factory=time.time)

    def sign(self) -> dict[str, object]:
        """As JSON, with the number of images that are being decoded."""
        fields = {"since": self.since, "images": self.images, "done": self.done}
        step = {"step": self.step, "step_since": self.step_since}
        return {**fields, **step, "decoding": self.clock.under_way("decode")}
