"""Bugs that the harness must see, put into a process's own copy of the program. Each breaks one promise."""

from __future__ import annotations

import json
from collections.abc import Callable

from pipeline import ledger
from pipeline.commit import Commit, commit_key
from pipeline.ledger import Ledger
from pipeline.storage import Store, StoreError


def plant(name: str) -> None:
    """Put one of `PLANTS` into this process."""
    PLANTS[name]()


def _no_create_only() -> None:
    """Create-only commits switched off: the last writer wins."""

    def create(self: Store, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True

    def unchecked(self: Store) -> None:
        """The probe at the start would refuse to run."""

    Store.create = create  # type: ignore[method-assign]
    Store.probe = unchecked  # type: ignore[method-assign]


def _images_first() -> None:
    """Images published before instances."""
    ledger.TABLES = tuple(reversed(ledger.TABLES))  # type: ignore[assignment]


def _loser_believes() -> None:
    """The attempt id left out where a refused attempt reads the record: it takes another's for its own."""

    def standing(self: Ledger, record: Commit) -> Commit:
        return record

    Ledger._standing = standing  # type: ignore[method-assign]


def _winner_despairs() -> None:
    """The attempt id left out where a lost answer is followed up: a record in place is always another's."""

    def commit(self: Ledger, record: Commit) -> Commit:
        key, data = commit_key(record.shard), record.to_json().encode()
        try:
            won = self.store.create(key, data)
        except StoreError:
            won = False
        if not won:
            self._sweep(record.shard, record.attempt)
            return Commit.from_json(json.dumps(json.loads(self.store.get(key))))
        self.publish(record)
        return record

    Ledger.commit = commit  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "no create-only commits": _no_create_only,
    "images before instances": _images_first,
    "a loser believes it won": _loser_believes,
    "a winner believes it lost": _winner_despairs,
}
