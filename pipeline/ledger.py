"""The ledger of an output: which shards are done, and the protocol that makes each done exactly once.

An attempt writes its files where nobody looks, then asks for the shard's commit record, which can be created
only once. Whoever finds the record, its author or not, can finish the rest, any number of times: copy the
winner's files to their public names, instances first, and sweep the attempt's own. A process may die between
any two steps; `repair` at the next start ends what it began.

A retry commits a later revision of a shard under the same public names, so a publisher of an earlier one that
comes late could put the old files on top. What keeps the rows: the earlier attempt's files go as soon as the
later revision is committed, so no copy of them can begin any more; and the later attempt's own files stay for
`SETTLING`, longer than any request lives, so whoever publishes again (the late publisher itself, which looks
for later revisions after it copied; `repair`; a vacuum) puts the right ones back. Who reads by commits
(`pipeline.tables`) sees the right rows throughout.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from pipeline.commit import (
    Commit,
    TableFile,
    attempt_key,
    commit_key,
    parse_attempt_key,
    parse_commit_key,
    public_key,
    started_key,
)
from pipeline.folding import FOLD, Folded, fold
from pipeline.objects import Data
from pipeline.plan import Plan
from pipeline.schemas import TABLES
from pipeline.steps import Step, reached
from pipeline.storage import NotFound, ObjectInfo, Store, StoreError

JOB_KEY = "job.json"
WRITTEN: tuple[Step, ...] = ("first_written", "second_written")
READERS = 16
"""Records fetched, and shards repaired, at a time."""
SETTLING = 3600.0
"""Seconds for which a later revision's attempt keeps its files; a request lasts ten minutes at most."""
COPIES = 3
"""Times that a later revision is copied while somebody copies an earlier one over it."""


class LedgerError(Exception):
    """An output whose own files contradict each other; the message says which, and what to do."""


class FingerprintMismatch(Exception):
    """The output holds rows made with other settings. `differences` says which, in words."""

    def __init__(self, uri: str, differences: Sequence[str], more: str = "") -> None:
        """`more` ends the message."""
        self.uri = uri
        self.differences = list(differences)
        listed = (
            "".join(f"\n  {line}" for line in differences) or "\n  (the settings recorded there are gone)"
        )
        super().__init__(
            f"{uri} holds rows made with other settings, and one output holds one kind of rows:{listed}\n"
            f"Name another output, or go back to the settings on the left.{more}"
        )


class Revisions(dict[str, int]):
    """Each committed shard's highest revision, as one listing told them."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: dict[str, ObjectInfo] = {}
        """What the listing says of the record that rules a shard."""

    def add(self, shard: str, revision: int, info: ObjectInfo) -> None:
        """Take in a record that was listed."""
        if revision >= self.get(shard, 0):
            self[shard], self.infos[shard] = revision, info


@dataclass
class Standing:
    """What an output holds, from one look at it: what later steps of a run need not ask for again."""

    revisions: Revisions
    folded: Folded


class Ledger:
    """Reads and writes the commits of one output."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def start(self) -> None:
        """Check that the store keeps create-only promises. Raises StoreError when it does not."""
        self.store.probe()

    def claim(self, job: Mapping[str, object]) -> dict[str, object]:
        """Make the output this job's: put `job.json` unless it stands; returns the one that stands.

        `job` needs `fingerprint` and `settings` (`SegmentSettings.job_record`). Raises FingerprintMismatch
        when the output belongs to a job with other settings, LedgerError when its `job.json` is no such
        thing.
        """
        if self.store.create(JOB_KEY, json.dumps(job, indent=2, sort_keys=True).encode()):
            return dict(job)
        standing = self.job()
        if standing["fingerprint"] != job["fingerprint"]:
            raise FingerprintMismatch(self.store.uri, _differences(standing.get("settings"), job["settings"]))
        return standing

    def job(self) -> dict[str, object]:
        """The output's `job.json`. Raises NotFound where no job ever ran."""
        try:
            job = json.loads(self.store.get(JOB_KEY))
        except ValueError as error:
            raise LedgerError(f"{self.store.join(JOB_KEY)} is not JSON: {error}") from error
        if not isinstance(job, dict) or "fingerprint" not in job:
            raise LedgerError(
                f"{self.store.join(JOB_KEY)} was not written by this program; name another output"
            )
        return job

    def revisions(self) -> Revisions:
        """Each committed shard's highest revision: one listing, no record is read."""
        found = Revisions()
        for info in self.store.list("commits/"):
            parsed = parse_commit_key(info.key)
            if parsed is not None:
                found.add(*parsed, info)
        return found

    def committed(self, plans: Iterable[Plan]) -> list[str]:
        """Committed shards of the plans, in plan order."""
        done = self.revisions()
        return [shard for plan in plans for shard in plan.shard_ids() if shard in done]

    def pending(self, plans: Iterable[Plan], done: Mapping[str, int] | None = None) -> list[str]:
        """Shards of the plans without a commit, in plan order; `done` saves listing the `revisions` again."""
        done = self.revisions() if done is None else done
        return [shard for plan in plans for shard in plan.shard_ids() if shard not in done]

    def fold(self, standing: Standing | None = None) -> int:
        """Fold records, a thousand a file, for whoever reads them all; returns how many.

        `standing` saves looking again at what lies there.
        """
        if standing is None:
            return fold(self.store, self.revisions().infos.values())
        return fold(self.store, standing.revisions.infos.values(), standing.folded)

    def standing(self) -> Standing:
        """All `revisions`, and what is folded of their records; no record is read where it lies."""
        revisions = self.revisions()
        folded = Folded.of(self.store) if len(revisions) >= FOLD else Folded(())
        return Standing(revisions, folded)

    def read(self, shard: str) -> Commit | None:
        """The record that rules a shard: its highest revision; None when it is not committed."""
        return self._ruling(shard, from_revision=0)

    def records(self, shards: Mapping[str, int] | Standing | None = None) -> Iterator[Commit]:
        """The ruling records of all committed shards, or of some of `revisions`, in order of shard id.

        Of many, when they are all that `revisions` gave, those that are folded cost no request each; of a
        `Standing` nothing else is asked for.
        """
        if isinstance(shards, Standing):
            wanted: Mapping[str, int] = shards.revisions
            folded, infos = shards.folded, _infos_in(shards.revisions, shards.folded)
        else:
            wanted = self.revisions() if shards is None else shards
            folded, infos = self._folded(wanted)
        unfolded = sorted((shard, wanted[shard]) for shard in wanted if shard not in infos)
        with ThreadPoolExecutor(READERS) as readers:
            fetched = readers.map(lambda item: self._record(*item), unfolded)
            try:
                for shard in sorted(wanted):
                    if shard in infos:
                        yield folded.commit(infos[shard]) or self._record(shard, wanted[shard])
                    else:
                        yield next(fetched)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)  # who stops taking them waits for no more

    def _folded(self, wanted: Mapping[str, int]) -> tuple[Folded, dict[str, ObjectInfo]]:
        """What is folded, and which of the wanted records are, by shard."""
        if not isinstance(wanted, Revisions) or len(wanted) < FOLD:
            return Folded(()), {}
        folded = Folded.of(self.store)
        return folded, _infos_in(wanted, folded)

    def begin(self, shard: str, worker: str) -> str:
        """Note that an attempt at a shard starts; returns the attempt's id."""
        attempt = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"
        note = {"shard": shard, "attempt": attempt, "worker": worker, "time": time.time()}
        self.store.put(started_key(shard, attempt), json.dumps(note).encode())
        return attempt

    def write(self, shard: str, attempt: str, files: Mapping[str, Data]) -> None:
        """Put an attempt's own files, a file a table."""
        for table, step in zip(TABLES, WRITTEN, strict=True):
            self.store.put(attempt_key(shard, attempt, table), files[table])
            reached(step, shard)

    def abandon(self, shard: str, attempt: str) -> None:
        """Take back an attempt that an error ended before it asked to be committed, as far as the store lets.

        What then still lies there of an attempt without a commit is the trace of a worker that died. Never
        after `commit` was called: the record may be in place though no answer came.
        """
        with suppress(StoreError):
            self._sweep(shard, attempt)

    def commit(self, record: Commit) -> Commit:
        """Commit an attempt whose files are written, and publish; returns the record that rules the shard.

        That is another attempt's when this one came second: its files are then published, this one's go.
        Raises StoreError when the store cannot be reached; the shard may then be committed or not, and a
        later attempt or `repair` settles it.
        """
        reached("commit", record.shard)
        ruling = record if self._create(record) else self._standing(record)
        reached("committed", record.shard)
        self.publish(ruling)
        if ruling.attempt != record.attempt:
            self._sweep(record.shard, record.attempt)
        return ruling

    def publish(self, commit: Commit) -> None:
        """Bring a committed shard's files to their public names and sweep what is not needed any more.

        Safe to repeat, and to run beside other publishers of the shard, of other revisions too. Raises
        LedgerError when a file is gone.
        """
        self._retire(commit)
        copied = self._copies(commit)
        # These copies may have overtaken a later revision's publisher: then its files go on top again.
        newer = self._ruling(commit.shard, from_revision=commit.revision + 1)
        if newer is not None:
            self.publish(newer)
            return
        for table, fresh in zip(TABLES, copied, strict=True):
            self._check(commit, table, fresh)
        if settled(commit):
            self._sweep(commit.shard, commit.attempt)
        else:
            self.store.delete([started_key(commit.shard, commit.attempt)])

    def repair(self) -> list[str]:
        """Publish the committed shards whose publisher died on the way or that did not settle; returns them.

        An attempt's files go only when both public files are right, so what still lies under `_attempts/`
        names every shard that may need it. What others put there is left alone.
        """
        left: dict[str, set[str]] = {}
        for info in self.store.list("_attempts/"):
            if (parsed := parse_attempt_key(info.key)) is not None:
                shard, attempt = parsed
                left.setdefault(shard, set()).add(attempt)
        done = self.revisions() if left else {}
        rulings = self.records({shard: done[shard] for shard in left if shard in done})
        unpublished = [commit for commit in rulings if commit.attempt in left[commit.shard]]
        with ThreadPoolExecutor(READERS) as publishers:
            for _ in publishers.map(self.publish, unpublished):
                pass
        return [commit.shard for commit in unpublished]

    def _retire(self, commit: Commit) -> None:
        """Take away what earlier revisions' publishers copy from: nobody needs it any more."""
        for revision in range(commit.revision):
            if (earlier := self._find(commit.shard, revision)) is not None:
                self._sweep(commit.shard, earlier.attempt)

    def _copies(self, commit: Commit) -> list[bool]:
        """Copy both files; whether each could be, that is, whether no publisher has swept it already."""
        copied = []
        for table in TABLES:
            copied.append(self._copy(commit, table))
            if len(copied) == 1:
                reached("publish", commit.shard)
        return copied

    def _create(self, record: Commit) -> bool:
        """Whether the record was surely created by this call."""
        key, data = commit_key(record.shard, record.revision), record.to_json().encode()
        try:
            return self.store.create(key, data)
        except StoreError:
            # The answer was lost, not always the record: it is there, or the store is out of reach for good.
            if self._find(record.shard, record.revision) is None:
                raise
            return False

    def _standing(self, record: Commit) -> Commit:
        """What rules a shard whose record could not be created."""
        ruling = self._ruling(record.shard, from_revision=record.revision)
        if ruling is None:
            raise LedgerError(
                f"{self.store.join(commit_key(record.shard, record.revision))} was refused as existing but "
                "cannot be read; if nobody deleted it, this store does not honour create-only writes"
            )
        return ruling

    def _ruling(self, shard: str, from_revision: int) -> Commit | None:
        ruling, revision = None, from_revision
        while (record := self._find(shard, revision)) is not None:
            ruling, revision = record, revision + 1
        return ruling

    def _find(self, shard: str, revision: int) -> Commit | None:
        try:
            return self._record(shard, revision)
        except NotFound:
            return None

    def _record(self, shard: str, revision: int) -> Commit:
        key = commit_key(shard, revision)
        data = self.store.get(key)
        try:
            return Commit.from_json(data.decode())
        except ValueError as error:
            raise LedgerError(f"{self.store.join(key)}: {error}") from error

    def _copy(self, commit: Commit, table: str) -> bool:
        """Copy an attempt's file to its public name; False when another publisher has swept it already."""
        try:
            self.store.copy(attempt_key(commit.shard, commit.attempt, table), public_key(table, commit.shard))
        except NotFound:
            return False
        return True

    def _check(self, commit: Commit, table: str, fresh: bool) -> None:
        """Raise LedgerError unless the public file is the committed one; our copy is known by its size."""
        target, file = public_key(table, commit.shard), commit.files[table]
        for _ in range(COPIES):
            if self.store.head(target).size == file.size if fresh else self._matches(target, file):
                return
            if not commit.revision or not self._copy(commit, table):
                break
        raise LedgerError(
            f"{self.store.join(target)} is not the file that shard {commit.shard} committed, and the one "
            "its attempt wrote is gone: somebody changed the output. Delete "
            f"{self.store.join(commit_key(commit.shard, commit.revision))} and run the job again"
        )

    def _matches(self, key: str, file: TableFile) -> bool:
        try:
            return hashlib.sha256(self.store.get(key)).hexdigest() == file.sha256
        except NotFound:
            return False

    def _sweep(self, shard: str, attempt: str) -> None:
        keys = [attempt_key(shard, attempt, table) for table in TABLES]
        self.store.delete([*keys, started_key(shard, attempt)])


class Folding:
    """Folds a job's records in a thread behind its run: at the start, and after each thousand shards.

    `standing` is what the run found at its start, for the first time; it is let go after that. A store's
    error ends one fold and nothing else: what is not folded is read where it lies.
    """

    def __init__(self, ledger: Ledger, standing: Standing | None = None) -> None:
        self._ledger = ledger
        self._standing = standing
        self._thread = ThreadPoolExecutor(1, "folding")
        self._committed = 0

    def __enter__(self) -> None:
        self._thread.submit(self._fold)

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def committed(self) -> None:
        """Hear of a shard that was committed."""
        self._committed += 1
        if self._committed % FOLD == 0:
            self._thread.submit(self._fold)

    def _fold(self) -> None:
        standing, self._standing = self._standing, None
        with suppress(StoreError):
            self._ledger.fold(standing)


def _infos_in(revisions: Revisions, folded: Folded) -> dict[str, ObjectInfo]:
    """What the listing says of the records that are folded, by shard."""
    return {shard: info for shard, info in revisions.infos.items() if info in folded}


def settled(commit: Commit, now: float | None = None) -> bool:
    """Whether no copy of an earlier revision can still be under way: the attempt's own files may go."""
    return not commit.revision or (time.time() if now is None else now) - commit.committed >= SETTLING


def _differences(old: object, new: object) -> list[str]:
    from pipeline.settings import difference  # loads what decodes images, and few come here

    return difference(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else []
