"""Ctrl-C and SIGTERM end a run in good order: what is begun is committed or dropped, nothing is half done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jobs.errors import ExitCode, Interrupted

GRACE_SECONDS = 25
"""How long shards in work may still be committed: clusters kill 30 s after SIGTERM."""


class Stop:
    """A flag that signals set; the engine asks it between shards."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Set the flag and begin the grace; a second signal no longer waits."""
        if self.signal is not None:
            # Nothing needs tidying: an output stands any end of its driver.
            os._exit(128 + number)
        self.signal = number
        signal.alarm(GRACE_SECONDS)
        # Not print: the signal may have come in the midst of one.
        os.write(2, f"\nstopping within {GRACE_SECONDS} s; once more to stop at once\n".encode())

    def expire(self, _number: int, _frame: FrameType | None) -> None:
        """End the wait: shards still in work are dropped."""
        self.raise_if_set("shards in work were dropped; run the same command again to do the rest")

    def raise_if_set(self, remedy: str) -> None:
        """Raise Interrupted, with the exit code of the signal, when one came."""
        if self.signal is None:
            return
        code = ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.TERMINATED
        raise Interrupted(f"stopped by {signal.Signals(self.signal).name}; {remedy}", code)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Watch SIGINT and SIGTERM inside the block."""
    stop = Stop()
    handlers = {signal.SIGINT: stop.handle, signal.SIGTERM: stop.handle, signal.SIGALRM: stop.expire}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
