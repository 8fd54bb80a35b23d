"""Asking runs to stop, through their output: a run's driver asks its workers, anybody asks every driver."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

from pipeline.storage import NotFound, Store, StoreError

CANCEL_KEY = "_cancel"
"""Stands while somebody wants whatever runs on the output to stop."""
STOPS = "_stop/"
"""Holds a flag for each run that is stopping."""


def request_cancel(store: Store) -> None:
    """Ask every run on this output to stop."""
    store.put(CANCEL_KEY, json.dumps({"time": time.time(), "host": socket.gethostname()}).encode())


def cancel_requested(store: Store) -> float | None:
    """When a cancel was asked for, as Unix time; None where none stands.

    Raises StoreError when the store cannot be reached.
    """
    try:
        said = json.loads(store.get(CANCEL_KEY))
        return float(said["time"])
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError):
        return 0.0  # whatever is in it, somebody put it there to stop the runs


def clear_cancel(store: Store) -> None:
    """Take back whatever request stands: a run that starts now is wanted."""
    store.delete([CANCEL_KEY])


class RunFlag:
    """What a run's driver puts when the run is to stop, and its workers look for before each shard."""

    def __init__(self, store: Store, run: str) -> None:
        """`run` names the run: hexadecimal."""
        self._store, self._key = store, f"{STOPS}{run}"
        self._seen = False

    def put(self) -> None:
        """Have the workers begin no shard any more."""
        self._store.put(self._key, json.dumps({"time": time.time()}).encode())

    def is_set(self) -> bool:
        """Whether the run is to stop; a store that cannot say so lets it go on."""
        if not self._seen:
            with suppress(StoreError):
                self._store.head(self._key)
                self._seen = True
        return self._seen

    def clear(self) -> None:
        """Take the flag away: the run has ended."""
        with suppress(StoreError):
            self._store.delete([self._key])
