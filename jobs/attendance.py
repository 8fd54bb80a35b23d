"""Beside a training at work: signs of life in its output, and an ear for a request to cancel."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from jobs.beside import CANCEL_SECONDS, hear, repeated
from jobs.stopping import Stop
from jobs.train_files import SIGN_KEY
from pipeline.progress import INTERVAL
from pipeline.storage import Store, StoreError

JOIN_SECONDS = 10.0
"""How long the end waits for a sign that is being put, which would lie there after the training."""
QUIET_SECONDS = 30.0
"""A group that gave no sign for so long has no worker at work: those give one every two seconds."""


@contextmanager
def attendance(store: Store, said: Callable[[], Mapping[str, object]]) -> Iterator[None]:
    """While the block runs, say in the output how far the training is; the sign is gone with it.

    `said` tells the training's last word: plain values, of which a step and what it reached.
    """
    at = {"host": socket.gethostname(), "started": time.time()}

    def sign() -> None:
        store.put(SIGN_KEY, json.dumps({**at, "time": time.time(), **said()}).encode())

    try:
        with repeated(sign, INTERVAL, "attendance", patience=JOIN_SECONDS):
            yield
    finally:
        with suppress(StoreError):
            store.delete([SIGN_KEY])


@contextmanager
def hearing(store: Store, stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, listen for a request to cancel, which leaves the step at work its time."""

    def listen() -> None:
        if hear(store, stop, patient=True):
            tell("a cancel was requested: the training ends after the step it is at")

    with repeated(listen, CANCEL_SECONDS, "hearing"):
        yield


def unattended(stop: Stop) -> Callable[[float], None]:
    """For the driver of a group, which asks with the seconds since a worker's last sign, if there was any.

    Raises why the training is to stop where no worker is there to end it.
    """

    def look(idle: float) -> None:
        if idle >= QUIET_SECONDS:
            stop.raise_if_set()

    return look
