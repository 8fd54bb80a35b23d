"""Finds what lies in an output and belongs to nobody, and takes it away.

Nothing that a run at work could need is touched, also while runs go on. What makes that so:

- The attempt that rules a shard is never removed. Where its files still lie, its publication was cut off:
  `remove` publishes it, as any run would, and the ledger sweeps the files itself: those of a shard that was
  retried only when an hour has passed (`pipeline.ledger`).
- Another attempt at a committed shard came second if it began before the ruling record was made: its commit
  will be refused, and what it then publishes is the winner's. One that began later may be a retry on request,
  and goes by age.
- An attempt at a shard without a commit may be at work: it goes when it is older than the age (its id begins
  with the time), and no worker that gave a sign since shows the shard in work. With it goes the trace of a
  death; a shard that kills its workers is found out anew.
- Names of plans' folders and of probes tell no time. `remove` notes when it first saw them, in
  `_vacuum/seen.json`; they go when that is longer ago than the age and no plan has come to refer to them.
- Public files without a commit are reported, and removed only on demand: only names that this program writes,
  and only where no attempt at the shard is left, since a shard about to be committed has one.
- Everything is listed before the records that could speak for it are read, and asked about once more right
  before it goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.ledger import Ledger, LedgerError
from pipeline.leftovers import SEEN_KEY, Kind, Leftovers, Orphan, find, plan_folders
from pipeline.storage import Store

__all__ = ["Kind", "Leftovers", "Orphan", "Removed", "find", "remove"]

TAKERS = 16
"""Orphans removed at a time."""


@dataclass(frozen=True)
class Removed:
    """What a vacuum did."""

    orphans: tuple[Orphan, ...]
    published: tuple[str, ...]
    """Shards whose publication it ended."""
    stuck: tuple[str, ...]
    """Why other shards could not be published; `verify` says more."""


def remove(store: Store, leftovers: Leftovers, *, public: bool = False) -> Removed:
    """Take the orphans away that still are some, and publish what was left unpublished.

    `public` also removes public files without a commit.
    """
    ledger = Ledger(store)
    published, stuck = _publish(ledger, leftovers.unpublished)
    gone = _take(store, [orphan for orphan in leftovers.orphans if orphan.kind is not Kind.PUBLIC])
    if public:
        gone += _take(store, [orphan for orphan in leftovers.orphans if orphan.kind is Kind.PUBLIC])
    _note_seen(store, leftovers.seen)
    return Removed(tuple(gone), tuple(published), tuple(stuck))


def _publish(ledger: Ledger, shards: Iterable[str]) -> tuple[list[str], list[str]]:
    """End cut-off publications; returns the shards done, and why others could not be."""
    published, stuck = [], []
    for shard in shards:
        try:
            if (ruling := ledger.read(shard)) is not None:
                ledger.publish(ruling)
                published.append(shard)
        except LedgerError as error:
            stuck.append(str(error))
    return published, stuck


def _take(store: Store, orphans: Sequence[Orphan]) -> list[Orphan]:
    """Remove the orphans that are still some; returns them."""
    ledger = Ledger(store)

    def take(orphan: Orphan) -> bool:
        if orphaned := _still_orphaned(ledger, orphan):
            store.delete(orphan.keys)
        return orphaned

    with ThreadPoolExecutor(TAKERS) as takers:
        return [orphan for orphan, gone in zip(orphans, takers.map(take, orphans), strict=True) if gone]


def _still_orphaned(ledger: Ledger, orphan: Orphan) -> bool:
    """Ask once more: since the search, a run may have come to need it."""
    if orphan.kind in (Kind.LOST, Kind.DEAD):
        shard, _, attempt = orphan.name.partition("/")
        ruling = ledger.read(shard)
        return ruling is None or ruling.attempt != attempt
    if orphan.kind is Kind.PUBLIC:
        # In this order: who is about to commit the shard has an attempt there until it is published.
        at_work = any(True for _ in ledger.store.list(f"_attempts/{orphan.name}/"))
        return not at_work and ledger.read(orphan.name) is None
    return orphan.kind is not Kind.PLAN or orphan.name not in plan_folders(ledger.store)


def _note_seen(store: Store, seen: Mapping[str, float]) -> None:
    if seen:
        store.put(SEEN_KEY, json.dumps(seen).encode())
    else:
        store.delete([SEEN_KEY])
