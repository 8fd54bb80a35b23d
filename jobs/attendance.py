"""Beside a training at work: signs of life in its output, and an ear for a request to cancel."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from jobs.errors import ExitCode, Interrupted
from jobs.lookout import CANCEL_SECONDS
from jobs.train_files import SIGN_KEY
from pipeline.progress import INTERVAL
from pipeline.stopping import cancel_requested
from pipeline.storage import Store, StoreError

QUIET_SECONDS = 30.0
"""A group that gave no sign for so long has no worker at work: those give one every five seconds."""


class Attendance:
    """A thread that, while the block runs, says how far the training is, and looks for a request to cancel.

    A store that does not answer it is no reason to end: the training's own requests tell of that.
    """

    def __init__(self, store: Store, said: Callable[[], Mapping[str, object]]) -> None:
        """`said` tells the training's last word: plain values, of which a step and what it reached."""
        self._store, self._said = store, said
        self._started = time.time()
        self._asked = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, and take the sign away; a request that is under way is waited for, but not for long."""
        self._ended.set()
        self._thread.join(INTERVAL)
        with suppress(StoreError):
            self._store.delete([SIGN_KEY])

    def asked_to_end(self) -> bool:
        """Whether somebody has asked for a cancel."""
        return self._asked

    def _run(self) -> None:
        due = 0.0
        while True:
            with suppress(StoreError):
                if time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL
                    self._store.put(SIGN_KEY, self._sign())
                self._asked = self._asked or cancel_requested(self._store) is not None
            if self._ended.wait(CANCEL_SECONDS):
                return

    def _sign(self) -> bytes:
        at = {"host": socket.gethostname(), "started": self._started, "time": time.time()}
        return json.dumps({**at, **self._said()}).encode()


class Ear:
    """For the driver of a group: hears a request to cancel while no worker is there to do so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked = float("-inf")

    def __call__(self, idle: float) -> None:
        """Look, once in a while, when no worker gave a sign for `idle` seconds. Raises Interrupted."""
        now = time.monotonic()
        if idle < QUIET_SECONDS or now - self._looked < CANCEL_SECONDS:
            return
        self._looked = now
        with suppress(StoreError):
            if cancel_requested(self._store) is not None:
                raise cancelled(self._store)


def cancelled(store: Store) -> Interrupted:
    """What a training raises that was asked to end."""
    return Interrupted(
        f"cancelled on request; {store.uri} keeps the last checkpoint: run the same command again to go on",
        ExitCode.CANCELLED,
    )
