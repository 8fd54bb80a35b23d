"""What is looked at again and again while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from jobs.errors import ExitCode, Interrupted
from jobs.stopping import Stop
from pipeline.stopping import cancel_requested
from pipeline.storage import Store, StoreError

CANCEL_SECONDS = 5.0
"""Between two looks for a request to cancel."""


@contextmanager
def repeated(look: Callable[[], object], seconds: float, name: str, patience: float = 0.0) -> Iterator[None]:
    """Look now and every so many seconds, in a thread of this name, while the block runs.

    A store that does not answer is no reason to end: whoever works with it tells of that. A look that is
    under way when the block ends is waited for, for `patience` seconds.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            with suppress(StoreError):
                look()
            ended.wait(seconds)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(patience)


def hear(store: Store, stop: Stop, *, patient: bool = False) -> bool:
    """Set `stop` where somebody has asked for a cancel; whether it was set by that now.

    `patient` as `Stop.ask` has it. Raises StoreError.
    """
    if stop() or cancel_requested(store) is None:
        return False
    reason = Interrupted(f"cancelled on request; {stop.remedy}", ExitCode.CANCELLED)
    stop.ask(reason, patient=patient)
    return stop.reason is reason
