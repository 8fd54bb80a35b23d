"""How often a remote store is asked again, and for how long: every retry of the project is made here.

A request is made again when no answer came, when the service answered that it is in trouble or is asked too
much (5xx, 429, SlowDown), or that another writer is at the same name (409). Other answers are final.
Neither obstore nor boto3 retries by itself, save for what is many requests to them and one call to us.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from obstore.store import RetryConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Bounds of the retries of one request."""

    tries: int
    """Requests in all, the first one too."""
    seconds: float
    """After so long since the first request began, none is begun any more."""
    longest_pause: float
    """Seconds between two requests at most."""
    first_pause: float = 0.1
    """The pause before the second request at most; it doubles with each."""

    def insist(self, request: Callable[[], T], passing: tuple[type[Exception], ...]) -> T:
        """Make a request until it ends with something else than an error that may pass; raises the last."""
        deadline = time.monotonic() + self.seconds
        for pause in self.pauses():
            try:
                return request()
            except passing:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
        return request()

    def pauses(self) -> Iterator[float]:
        """Seconds between the tries, with full jitter: so that many do not come back at once."""
        for number in range(self.tries - 1):
            yield random.uniform(0, min(self.longest_pause, self.first_pause * 2**number))

    def of_obstore(self) -> RetryConfig:
        """The same for what obstore makes many requests of: uploads in parts, listings but S3's."""
        return {
            "max_retries": self.tries - 1,
            "retry_timeout": timedelta(seconds=self.seconds),
            "backoff": {
                "init_backoff": timedelta(seconds=self.first_pause),
                "max_backoff": timedelta(seconds=self.longest_pause),
                "base": 2,
            },
        }


PATIENT = Patience(tries=40, seconds=120, longest_pause=15)
"""For a service that has answered before: it gets two minutes to come back.

Its pauses take four minutes on average, so that the time ends the tries, not their number."""
QUICK = Patience(tries=3, seconds=5, longest_pause=1)
"""For the first request to a service: a wrong endpoint is to be told in seconds."""
