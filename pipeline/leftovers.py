"""What lies in an output besides its tables and their accounts. `pipeline.vacuum` tells the rules."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from pipeline.commit import SHARD, Commit, parse_attempt_key, public_key
from pipeline.folding import Folded
from pipeline.ledger import Ledger, settled
from pipeline.local import TEMPORARY
from pipeline.manifest import load_plans
from pipeline.schemas import TABLES
from pipeline.stopping import STOPS
from pipeline.storage import NotFound, ObjectInfo, Store

DAY = 86_400.0
SEEN_KEY = "_vacuum/seen.json"
K = TypeVar("K", bound=Hashable)
_PUBLIC = re.compile(rf"(?:{'|'.join(TABLES)})/{SHARD}\.parquet")
_PLAN = re.compile(r"(?P<folder>_plans/[0-9a-f]+)/(?:manifest-\d+\.parquet|areas\.json)")
_PROBE = re.compile(r"_probe/[0-9a-f]+")
_FLAG = re.compile(rf"{STOPS}[0-9a-f]+")
_SIGN = re.compile(r"_progress/\w[\w.-]*\.json")


class Kind(StrEnum):
    """What an orphan is left of."""

    LOST = "attempts that came second"
    DEAD = "attempts that died"
    PLAN = "plans that were not taken"
    PROBE = "probes"
    FLAG = "flags of ended runs"
    SIGN = "signs of dead workers"
    UNFINISHED = "half-written files"
    SETTLING = "files of shards just retried"
    FOLDED = "folded records that no longer hold"
    PUBLIC = "public files without a commit"


@dataclass(frozen=True)
class Orphan:
    """Objects that nobody refers to, and that go together."""

    kind: Kind
    name: str
    """Shard and attempt, plan id, shard, or key."""
    keys: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Leftovers:
    """What lies in an output besides its tables and their accounts."""

    orphans: tuple[Orphan, ...]
    """What nobody will miss; of kind PUBLIC, what nobody accounts for."""
    waiting: tuple[Orphan, ...]
    """What may be of use yet: too young, or at work."""
    unpublished: tuple[str, ...]
    """Committed shards whose attempt files still lie there."""
    seen: Mapping[str, float]
    """When a vacuum first saw those of `waiting` whose names tell no time; Unix times by name."""


def find(store: Store, older_than: float = DAY, now: float | None = None) -> Leftovers:
    """Look for what belongs to nobody; changes nothing. `older_than` is in seconds, `now` a Unix time.

    Raises LedgerError or PlanError when a record cannot be read: then nobody can say what it refers to.
    """
    return _Search(store, older_than, time.time() if now is None else now).leftovers()


class _Search:
    """One look at an output."""

    def __init__(self, store: Store, older_than: float, now: float) -> None:
        self._store, self._older_than, self._now = store, older_than, now
        self._orphans: list[Orphan] = []
        self._waiting: list[Orphan] = []
        self._unpublished: list[str] = []
        self._seen_before = _read_seen(store)
        self._seen: dict[str, float] = {}

    def leftovers(self) -> Leftovers:
        """Look at everything: at what could be referred to before the records that refer to it."""
        store = self._store
        busy = self._signs()
        attempts = _grouped(store.list("_attempts/"), parse_attempt_key)
        public = _grouped((info for table in TABLES for info in store.list(f"{table}/")), _public_of)
        plans = _grouped(store.list("_plans/"), _plan_of)
        self._folded()
        self._attempts(attempts, Ledger(store), public, busy)
        taken = plan_folders(store) if plans else set()
        for name, objects in plans.items():
            if name not in taken:
                self._timeless(Kind.PLAN, name, objects)
        for kind, folder, pattern in ((Kind.PROBE, "_probe/", _PROBE), (Kind.FLAG, STOPS, _FLAG)):
            for info in store.list(folder):
                if pattern.fullmatch(info.key):
                    self._timeless(kind, info.key, [info])
        if store.local:
            self._half_written()
        return Leftovers(tuple(self._orphans), tuple(self._waiting), tuple(self._unpublished), self._seen)

    def _signs(self) -> set[str]:
        """Sort out the signs of dead workers; returns the shards that the others show in work."""
        busy: set[str] = set()
        for info in self._store.list("_progress/"):
            if not _SIGN.fullmatch(info.key):
                continue
            try:
                sign = json.loads(self._store.get(info.key))
                last, shards = float(sign["time"]), {str(shard) for shard in sign["shards"]}
            except NotFound:
                continue
            except (ValueError, KeyError, TypeError):
                self._timeless(Kind.SIGN, info.key, [info])
                continue
            if self._aged(last):
                self._sort(Kind.SIGN, info.key, [info], gone=True)
            else:
                busy |= shards
        return busy

    def _attempts(
        self,
        attempts: Mapping[tuple[str, str], Sequence[ObjectInfo]],
        ledger: Ledger,
        public: Mapping[str, Sequence[ObjectInfo]],
        busy: set[str],
    ) -> None:
        """Hold attempts and public files against the commits."""
        done = ledger.revisions() if attempts or public else {}
        rulings = {
            commit.shard: commit
            for commit in ledger.records({shard: done[shard] for shard, _ in attempts if shard in done})
        }
        for (shard, attempt), objects in attempts.items():
            ruling = rulings.get(shard)
            if ruling is not None and ruling.attempt == attempt:
                self._ruling(ruling, objects, public.get(shard, ()))
            else:
                self._attempt(shard, attempt, objects, ruling, shard in busy)
        for shard, objects in public.items():
            if shard not in done:
                self._sort(Kind.PUBLIC, shard, objects, gone=True)

    def _ruling(self, ruling: Commit, objects: Sequence[ObjectInfo], public: Sequence[ObjectInfo]) -> None:
        """Files of the attempt that rules: left by a publisher that died, or kept a while after a retry."""
        sizes = {info.key: info.size for info in public}
        right = all(sizes.get(public_key(t, ruling.shard)) == ruling.files[t].size for t in TABLES)
        if right and not settled(ruling, self._now):
            self._sort(Kind.SETTLING, f"{ruling.shard}/{ruling.attempt}", objects, gone=False)
        else:
            self._unpublished.append(ruling.shard)

    def _attempt(
        self, shard: str, attempt: str, objects: Sequence[ObjectInfo], ruling: Commit | None, busy: bool
    ) -> None:
        began = int(attempt.partition("-")[0]) / 1000
        second = ruling is not None and began < ruling.committed
        kind = Kind.DEAD if ruling is None else Kind.LOST
        self._sort(kind, f"{shard}/{attempt}", objects, gone=not busy and (second or self._aged(began)))

    def _folded(self) -> None:
        """Files of `ledger/` that save nobody a request; a record that was replaced never comes back."""
        folded = Folded.of(self._store)
        if folded.files:
            infos = Ledger(self._store).revisions().infos.values()
            for file in folded.useless(infos):
                self._sort(Kind.FOLDED, file.info.key, [file.info], gone=True)

    def _half_written(self) -> None:
        """Files that a killed process was writing to a disk: not objects yet, so no listing shows them."""
        for folder, _, names in os.walk(self._store.uri):
            for name in (name for name in names if TEMPORARY.fullmatch(os.fsencode(name))):
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):
                    found = os.stat(path)
                    info = ObjectInfo(os.path.relpath(path, self._store.uri), found.st_size, None)
                    self._sort(Kind.UNFINISHED, info.key, [info], gone=self._aged(found.st_mtime))

    def _timeless(self, kind: Kind, name: str, objects: Sequence[ObjectInfo]) -> None:
        """Sort out what tells no time: it is as old as a vacuum knows it."""
        since = self._seen_before.get(name, self._now)
        if not self._aged(since):
            self._seen[name] = since
        self._sort(kind, name, objects, gone=self._aged(since))

    def _aged(self, since: float) -> bool:
        return self._now - since >= self._older_than

    def _sort(self, kind: Kind, name: str, objects: Sequence[ObjectInfo], *, gone: bool) -> None:
        orphan = Orphan(kind, name, tuple(info.key for info in objects), sum(info.size for info in objects))
        (self._orphans if gone else self._waiting).append(orphan)


def _grouped(objects: Iterable[ObjectInfo], group: Callable[[str], K | None]) -> dict[K, list[ObjectInfo]]:
    """Objects by what their key names; those whose key is none of ours are left out."""
    groups: dict[K, list[ObjectInfo]] = {}
    for info in objects:
        if (name := group(info.key)) is not None:
            groups.setdefault(name, []).append(info)
    return groups


def _public_of(key: str) -> str | None:
    found = _PUBLIC.fullmatch(key)
    return found["shard"] if found else None


def _plan_of(key: str) -> str | None:
    found = _PLAN.fullmatch(key)
    return found["folder"] if found else None


def plan_folders(store: Store) -> set[str]:
    """Folders of manifests that plans refer to. Raises PlanError when a plan cannot be read."""
    return {file.path.rpartition("/")[0] for plan in load_plans(store) for file in plan.files}


def _read_seen(store: Store) -> dict[str, float]:
    try:
        return {str(name): float(since) for name, since in json.loads(store.get(SEEN_KEY)).items()}
    except (NotFound, ValueError, TypeError, AttributeError):
        return {}
