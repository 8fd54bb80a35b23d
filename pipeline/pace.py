"""A cap on how many requests a second go to one bucket from this process."""

from __future__ import annotations

import threading
import time

BURST_SECONDS = 0.25
"""What the cap would have let through in this time may go at once."""


class Pace:
    """Lets requests through at a rate; those that come faster wait their turn. Safe in threads."""

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._lock = threading.Lock()
        self._paid = 0.0
        """When all that was let through is paid off at the rate."""

    def lower(self, per_second: float) -> None:
        """Keep to another rate from now on, if it is lower."""
        with self._lock:
            self.per_second = min(self.per_second, per_second)

    def wait(self, requests: int = 1) -> None:
        """Return when so many requests may be made."""
        with self._lock:
            now, each = time.monotonic(), 1 / self.per_second
            self._paid = max(self._paid, now) + requests * each
            early = self._paid - now - max(BURST_SECONDS, requests * each)
        if early > 0:
            time.sleep(early)


_paces: dict[tuple[str, str], Pace] = {}
_paces_lock = threading.Lock()


def pace_of(endpoint: str, bucket: str, per_second: float | None) -> Pace | None:
    """The pace of a bucket, one for all stores in it: the lowest that any of them asks for. None: no cap."""
    if per_second is None:
        return None
    with _paces_lock:
        pace = _paces.setdefault((endpoint, bucket), Pace(per_second))
    pace.lower(per_second)
    return pace
