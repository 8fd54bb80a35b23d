"""Ends this process when a piece of its work does not end, even one that never lets go of the GIL.

A thread looks at the work once a second and ends the process when a piece is overdue. Where that thread
cannot run, because a library holds the GIL, a timer of `faulthandler` does it a little later: a thread in C.
A process has one such timer, so what is watched is kept for the process, however many workers are in it.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

BEAT = 1.0
"""Seconds between two looks at the work."""

SLACK = 3.0
"""Seconds that the timer in C leaves to the thread, which can say what was overdue."""


class Watchdog:
    """While one is open in this process, what is done inside `watching` may last only so long."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        _work.watch()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the last one takes the timer along."""
        self._closed.set()
        self._thread.join()
        _work.unwatch()

    def _run(self) -> None:
        while not self._closed.wait(BEAT):
            _work.look()


@contextmanager
def watching(what: str, seconds: float) -> Iterator[None]:
    """Let the process end when the block lasts longer than this, if a `Watchdog` is open.

    `what` is told on stderr then. The exit code is 1.
    """
    number = _work.begin(_Piece(what, seconds, time.monotonic() + seconds, threading.get_ident()))
    try:
        yield
    finally:
        _work.end(number)


@contextmanager
def paused() -> Iterator[None]:
    """Let the time of what this thread does inside `watching` stand still: it waits for what others do."""
    pieces, start = _work.take_out(threading.get_ident()), time.monotonic()
    try:
        yield
    finally:
        _work.put_back(pieces, time.monotonic() - start)


@contextmanager
def unhurried(lock: Lock) -> Iterator[None]:
    """A lock or a semaphore, for which this thread waits `paused`."""
    if not lock.acquire(blocking=False):
        with paused():
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Lock(Protocol):
    """What is held by one thread, or a few, at a time."""

    def acquire(self, blocking: bool = True) -> bool:
        """Wait for it, or say at once whether it could be had."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


def die(why: str) -> None:
    """End this process at once, as a crash would, with a line on stderr."""
    # No logging: who holds its lock may be the one that hangs.
    os.write(2, f"\nthis process ends: {why}\n".encode(errors="replace"))
    os._exit(1)


@dataclass(frozen=True)
class _Piece:
    what: str
    seconds: float
    deadline: float
    """By the monotonic clock."""
    thread: int

    def overdue(self) -> str:
        """What happened, and where its thread is."""
        frame = sys._current_frames().get(self.thread)
        at = traceback.extract_stack(frame, limit=1)[-1] if frame else None
        where = f", now in {at.name} ({at.filename}:{at.lineno})" if at else ""
        return f"{self.what} has not ended within {self.seconds:g} s{where}"


class _Work:
    """What is under way in this process, and its timer, which stands at the earliest deadline or before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pieces: dict[int, _Piece] = {}
        self._watchers = 0
        self._armed: float | None = None
        # A traceback of all threads says nothing to the user, and the terminal is theirs.
        self._nowhere = open(os.devnull, "wb")  # noqa: SIM115

    def watch(self) -> None:
        with self._lock:
            self._watchers += 1

    def unwatch(self) -> None:
        with self._lock:
            self._watchers -= 1
            if not self._watchers:
                self._arm(None)

    def begin(self, piece: _Piece) -> int:
        with self._lock:
            number = next(self._numbers)
            self._add(number, piece)
            return number

    def end(self, number: int) -> None:
        with self._lock:
            del self._pieces[number]

    def take_out(self, thread: int) -> dict[int, _Piece]:
        """Watch a thread's pieces no more; returns them."""
        with self._lock:
            mine = {number: piece for number, piece in self._pieces.items() if piece.thread == thread}
            for number in mine:
                del self._pieces[number]
            return mine

    def put_back(self, pieces: Mapping[int, _Piece], later: float) -> None:
        """Watch them again, their deadlines so many seconds later."""
        with self._lock:
            for number, piece in pieces.items():
                self._add(number, replace(piece, deadline=piece.deadline + later))

    def look(self) -> None:
        """End the process if a piece is overdue; else bring the timer to the earliest deadline."""
        with self._lock:
            first = min(self._pieces.values(), key=lambda piece: piece.deadline, default=None)
            if first is None:
                self._arm(None)
            elif first.deadline <= time.monotonic():
                die(first.overdue())
            else:
                self._arm(first.deadline)

    def _add(self, number: int, piece: _Piece) -> None:
        self._pieces[number] = piece
        # At once, not at the next look: it may take the GIL and never give it back.
        if self._watchers and (self._armed is None or piece.deadline < self._armed):
            self._arm(piece.deadline)

    def _arm(self, deadline: float | None) -> None:
        if deadline == self._armed:
            return
        self._armed = deadline
        if deadline is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            left = max(0.0, deadline - time.monotonic()) + SLACK
            faulthandler.dump_traceback_later(left, exit=True, file=self._nowhere)


_work = _Work()
