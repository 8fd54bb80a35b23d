"""Looks at one committed shard: its records, its plan, then its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pipeline.commit import Commit, commit_key, public_key
from pipeline.findings import Fault, Finding
from pipeline.ledger import Ledger, LedgerError
from pipeline.plan import Plan, PlanError, read_shard, shard_place
from pipeline.shardcheck import ShardCheck, ShardRows
from pipeline.storage import NotFound, Store

_RECORD = TypeAdapter(Commit)


@dataclass
class ShardLook:
    """What the look at one shard gave."""

    shard: str
    record: Commit | None
    """The record that rules it, if that is one."""
    rows: ShardRows
    findings: list[Finding]


class ShardExaminer:
    """Looks at the shards of one output, from many threads."""

    def __init__(
        self, store: Store, job: Mapping[str, object], plans: Mapping[int, Plan], unsure: Collection[int]
    ) -> None:
        """`job` may be empty when it cannot be read; `unsure` are generations whose manifest is damaged."""
        self._store, self._job, self._plans, self._unsure = store, job, plans, unsure

    def look(self, shard: str, revisions: Sequence[int], masks: int | None) -> ShardLook:
        """Check a shard that has records of these revisions (rising); `masks` to decode, None for all."""
        findings: list[Finding] = []
        records = [self._record(shard, revision, findings) for revision in revisions]
        if list(revisions) != list(range(len(revisions))):
            key, what = commit_key(shard, revisions[-1]), "an earlier record of the shard is gone"
            findings.append(self._finding(Fault.RECORD, key, what, shard))
        look = ShardLook(shard, records[-1], ShardRows(), findings)
        if look.record is not None:
            self._check(look, look.record, masks)
        return look

    def _finding(self, fault: Fault, key: str, what: str, shard: str) -> Finding:
        return Finding(fault, self._store.join(key), what, redo(shard))

    def _record(self, shard: str, revision: int, findings: list[Finding]) -> Commit | None:
        """A record, as long as it is one of the shard."""
        key = commit_key(shard, revision)
        try:
            record = _parse(self._store.get(key))
            if (record.shard, record.revision) != (shard, revision):
                raise ValueError(f"it is that of shard {record.shard}, revision {record.revision}")
        except NotFound:
            findings.append(self._finding(Fault.RECORD, key, "it is gone since it was listed", shard))
            return None
        except ValueError as error:
            what = f"not the commit record of its name: {error}"
            findings.append(self._finding(Fault.RECORD, key, what, shard))
            return None
        if self._job and record.fingerprint != self._job["fingerprint"]:
            what = "its rows were made with other settings than the job's"
            findings.append(self._finding(Fault.FINGERPRINT, key, what, shard))
        return record

    def _check(self, look: ShardLook, record: Commit, masks: int | None) -> None:
        """Hold the rows against the record; a newer one that came meanwhile takes its place."""
        plan = self._plans.get(shard_place(record.shard)[0])
        expected = self._expected(plan, look)
        extra = None if plan is None else plan.extra
        check = ShardCheck(self._store, record, self._job, expected, extra, masks)
        if not check.run() and (newer := self._newer(record)) is not None:
            return self._check(look, newer, masks)
        look.record, look.rows = record, check.rows
        look.findings += [
            self._finding(fault, public_key(table, look.shard), what, look.shard)
            for fault, table, what in check.faults
        ]
        return None

    def _expected(self, plan: Plan | None, look: ShardLook) -> list[str] | None:
        """The manifest's image ids of the shard; None when the manifest cannot be trusted."""
        if plan is None or plan.generation in self._unsure:
            return None
        try:
            refs = read_shard(self._store, plan, shard_place(look.shard)[1])
        except PlanError as error:
            look.findings.append(self._finding(Fault.MANIFEST, plan.files[0].path, str(error), look.shard))
            return None
        return [ref.image_id for ref in refs]

    def _newer(self, record: Commit) -> Commit | None:
        with suppress(LedgerError):
            ruling = Ledger(self._store).read(record.shard)
            if ruling is not None and ruling.revision > record.revision:
                return ruling
        return None


def redo(shard: str) -> str:
    """What puts a shard right."""
    return f"delete commits/{shard}*.json and run the job again, which does this shard anew"


def _parse(data: bytes) -> Commit:
    """Read a record strictly: every field has its type. Raises ValueError."""
    text = data.decode()
    Commit.from_json(text)
    try:
        return _RECORD.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
