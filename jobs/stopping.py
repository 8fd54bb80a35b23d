"""Ends a run in good order, whoever asks: what is begun is committed or dropped, nothing is half done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobs.errors import ExitCode, Interrupted, JobError

GRACE_SECONDS = 25
"""How long shards in work may still be committed: clusters kill 30 s after SIGTERM."""


class Stop:
    """A flag that signals, requests and limits set; the engine asks it between shards."""

    def __init__(self, remedy: str, grace: int = GRACE_SECONDS, *, abrupt: bool = False) -> None:
        """`remedy` is what a stopped run says to do next.

        `abrupt` ends the process when the grace is over, for work in threads that nothing else ends.
        """
        self.reason: JobError | None = None
        """Why the run is to stop: what it raises in the end."""
        self.remedy = remedy
        self._grace, self._abrupt = grace, abrupt
        self._patient = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.reason is not None

    def ask(self, reason: JobError, *, patient: bool = False) -> None:
        """Set the flag, from any thread; the first reason stays.

        The grace begins, or, `patient`, what is in work gets the time that it takes, until there is a reason
        that is not patient.
        """
        if self.reason is None:
            self._patient = patient
            self.reason = reason
            if not patient:
                signal.alarm(self._grace)
        elif self._patient and not patient:
            self._patient = False
            signal.alarm(self._grace)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal; a second one no longer waits, and a first one ends a patient stop's patience."""
        if self.reason is not None and not self._patient:
            # Nothing needs tidying: an output stands any end of its driver.
            os._exit(128 + number)
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        self.ask(Interrupted(f"stopped by {signal.Signals(number).name}; {self.remedy}", code))
        # Not print: the signal may have come in the midst of one.
        os.write(2, f"\nstopping within {self._grace} s; once more to stop at once\n".encode())

    def expire(self, _number: int, _frame: FrameType | None) -> None:
        """End the wait: shards still in work are dropped."""
        if self.reason is None:
            return
        if self._abrupt:
            os.write(2, f"condinst: {self.reason} (shards in work were dropped)\n".encode(errors="replace"))
            os._exit(self.reason.code)
        raise self.reason

    def raise_if_set(self) -> None:
        """Raise the reason, when there is one."""
        if self.reason is not None:
            raise self.reason


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[Stop]:
    """Watch SIGINT and SIGTERM inside the block."""
    handlers = {signal.SIGINT: stop.handle, signal.SIGTERM: stop.handle, signal.SIGALRM: stop.expire}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
