"""Recomputes everything that an output says of itself: digests, counts, accounts, and the masks of a sample.

Reads each committed file once, streamed, some shards at a time; changes nothing. May run beside a job: it
holds what was committed when it looked, and a file on its way to its public name is no fault.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit import TableFile, commit_key, parse_commit_key, public_key
from pipeline.findings import Fault, Finding
from pipeline.folding import Folded, FoldedFile
from pipeline.ledger import JOB_KEY, Ledger, LedgerError
from pipeline.leftovers import Leftovers, find
from pipeline.manifest import Plan, PlanError, PlanFile, load_plan
from pipeline.plan import PLAN_KEY, PLANS, plan_key
from pipeline.shardcheck import NotTheFile, fetch
from pipeline.shardlook import ShardExaminer, ShardLook, redo
from pipeline.storage import NotFound, ObjectInfo, Store

CHECKERS = 4
"""Shards looked at at a time, both files of each."""
ShardHeard = Callable[[int, int], None]
"""Hears how many of how many shards were looked at."""
_SHARD = re.compile(r"(\d{4}|[1-9]\d{4,})-(\d{6}|[1-9]\d{6,})")
_RESTORE = "restore it from a copy, or name another output and run the job anew"


class Outcome(StrEnum):
    """What an output is."""

    GOOD = "good"
    """Complete, and nothing contradicts anything."""
    INCOMPLETE = "incomplete"
    """Shards are not committed, or not published yet; what there is, is right."""
    DAMAGED = "damaged"
    """Something contradicts something."""


@dataclass
class Report:
    """What an output holds and what is wrong with it."""

    uri: str
    images_planned: int = 0
    shards_planned: int = 0
    shards: int = 0
    """Committed shards of the plans."""
    missing: list[str] = field(default_factory=list)
    """Shards of the plans without a commit."""
    unpublished: list[str] = field(default_factory=list)
    """Committed shards whose files are not all at their public names yet."""
    images: int = 0
    """Rows of `images`."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Inputs by status, as the records say."""
    instances: int = 0
    """Rows of `instances`."""
    masks: int = 0
    """Masks decoded."""
    bytes: int = 0
    """Of the tables' files."""
    leftovers: Leftovers | None = None
    """What belongs to nobody; None when it cannot be told."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """What it comes to."""
        if self.findings:
            return Outcome.DAMAGED
        whole = self.shards_planned and not self.missing and not self.unpublished
        return Outcome.GOOD if whole else Outcome.INCOMPLETE


def verify(
    store: Store,
    sample: int = 200,
    full: bool = False,
    on_shard: ShardHeard = lambda done, known: None,
) -> Report:
    """Check an output; `sample` masks are decoded, spread over the shards, with `full` all.

    Raises NotFound where there is no job, StoreError when the store cannot be reached.
    """
    return _Verification(store, None if full else sample).run(on_shard)


class _Verification:
    def __init__(self, store: Store, sample: int | None) -> None:
        self._store, self._ledger, self._sample = store, Ledger(store), sample
        self._report = Report(store.uri)
        self._job: Mapping[str, object] = {}
        self._plans: dict[int, Plan] = {}
        self._unsure: set[int] = set()
        """Generations whose manifest is not what was planned: their shards cannot be held against it."""
        self._records: dict[str, ObjectInfo] = {}
        """What the listing says of each record."""
        self._names: dict[int, str] = {}
        self._indices: dict[str, int] = {}

    def run(self, on_shard: ShardHeard) -> Report:
        folded = Folded.of(self._store)
        revisions = self._revisions()
        self._check_job(bool(revisions))
        with ThreadPoolExecutor(CHECKERS) as checkers:
            self._check_ledger(folded, checkers)
            self._check_plans(checkers)
            known = self._belonging(revisions)
            examiner = ShardExaminer(self._store, self._job, self._plans, self._unsure)
            shares = _shares(self._sample, len(known))
            looks = checkers.map(examiner.look, known, [revisions[shard] for shard in known], shares)
            for done, look in enumerate(looks, 1):
                self._add(look)
                on_shard(done, len(known))
        self._report.leftovers = self._leftovers()
        return self._report

    def _note(self, fault: Fault, key: str, what: str, remedy: str) -> None:
        self._report.findings.append(Finding(fault, self._store.join(key), what, remedy))

    def _check_job(self, committed: bool) -> None:
        try:
            self._job = self._ledger.job()
        except NotFound:
            if not committed:
                raise
            self._note(Fault.JOB, JOB_KEY, "it is gone, and there are commits", _RESTORE)
            return
        except LedgerError as error:
            what = str(error).removeprefix(f"{self._store.join(JOB_KEY)} ").partition(";")[0]
            self._note(Fault.JOB, JOB_KEY, what, _RESTORE)
            return
        settings = json.dumps(self._job.get("settings"), sort_keys=True, separators=(",", ":"))
        if self._job["fingerprint"] != hashlib.sha256(settings.encode()).hexdigest():
            self._note(Fault.JOB, JOB_KEY, "its fingerprint is not that of its settings", _RESTORE)

    def _revisions(self) -> dict[str, list[int]]:
        """Each committed shard's revisions, rising."""
        found: dict[str, list[int]] = {}
        for info in self._store.list("commits/"):
            self._records[info.key] = info
            if (parsed := parse_commit_key(info.key)) is not None:
                found.setdefault(parsed[0], []).append(parsed[1])
        return {shard: sorted(revisions) for shard, revisions in sorted(found.items())}

    def _check_ledger(self, folded: Folded, checkers: ThreadPoolExecutor) -> None:
        """Hold folded records against those they are of; what was replaced since counts nowhere."""
        derived = "delete it: it is derived from commits/, and the next run makes what it needs anew"
        for file in folded.files:
            if file.records is None:
                self._note(Fault.LEDGER, file.info.key, "its bytes are not those its name tells", derived)
                continue
            infos = [self._records[key] for key, _ in file.current(self._records)]
            wrong = [info.key for info in checkers.map(partial(self._misfolded, file), infos) if info]
            if wrong:
                what = f"it does not say what {wrong[0]} says" + _more(len(wrong) - 1)
                self._note(Fault.LEDGER, file.info.key, what, derived)

    def _misfolded(self, file: FoldedFile, info: ObjectInfo) -> ObjectInfo | None:
        """The record, if the file holds another under its name; None when all is right, or it is gone."""
        try:
            data, now = self._store.get_with_info(info.key)
        except NotFound:
            return None
        records = file.records or {}
        return info if now.etag == info.etag and records[info.key, info.etag or ""] != data else None

    def _check_plans(self, checkers: ThreadPoolExecutor) -> None:
        for generation in self._generations():
            try:
                self._plans[generation] = load_plan(self._store, generation)
            except PlanError as error:
                what = str(error).removeprefix(f"{self._store.join(plan_key(generation))} ")
                self._note(Fault.PLAN, plan_key(generation), what.partition(";")[0], _RESTORE)
        files = [(plan.generation, file) for plan in self._plans.values() for file in plan.files]
        for (generation, file), wrong in zip(files, checkers.map(self._manifest, files), strict=True):
            if wrong:
                self._unsure.add(generation)
                self._note(Fault.MANIFEST, file.path, wrong, _RESTORE)
        self._report.shards_planned = sum(plan.shards for plan in self._plans.values())
        self._report.images_planned = sum(plan.images for plan in self._plans.values())

    def _generations(self) -> list[int]:
        """Generations that have a plan's record; says where one between them is gone."""
        found = []
        for info in self._store.list(PLANS):
            if named := PLAN_KEY.fullmatch(info.key):
                found.append(int(named[1]))
            elif info.key.endswith(".json"):
                self._note(Fault.PLAN, info.key, "no plan has such a name", "move it elsewhere")
        found.sort()
        for before, generation in zip([-1, *found], found, strict=False):
            if generation != before + 1:
                self._note(Fault.PLAN, plan_key(before + 1), "it is gone, and later ones are there", _RESTORE)
        return found

    def _manifest(self, place: tuple[int, PlanFile]) -> str | None:
        """What is wrong with a manifest file; None when nothing is."""
        file = place[1]
        try:
            with fetch(self._store, file.path, TableFile(file.rows, file.size, file.sha256)) as held:
                footer = pq.read_metadata(held)
        except NotTheFile as error:
            return str(error)
        except pa.ArrowException as error:
            return f"no Parquet file: {str(error).splitlines()[0]}"
        if (footer.num_rows, footer.num_row_groups) == (file.rows, file.row_groups):
            return None
        return f"{footer.num_rows:,} rows in {footer.num_row_groups:,} shards, its plan says {file.rows:,}"

    def _belonging(self, revisions: Mapping[str, Sequence[int]]) -> list[str]:
        """Committed shards, without those that no plan has; says which plan's shards are missing."""
        known, planless = [], Counter[int]()
        for shard in revisions:
            found = _SHARD.fullmatch(shard)
            plan = self._plans.get(int(found[1])) if found else None
            if found and plan is None:
                planless[int(found[1])] += 1
            elif not found or plan is None or int(found[2]) >= plan.shards:
                key = commit_key(shard, revisions[shard][0])
                self._note(Fault.STRANGER, key, "no plan has this shard", "move it elsewhere")
                continue
            known.append(shard)
        told = {finding.where for finding in self._report.findings}
        for generation, commits in planless.items():
            key = plan_key(generation)
            if self._store.join(key) not in told:
                self._note(Fault.PLAN, key, f"it is gone, and {commits:,} commits belong to it", _RESTORE)
        planned = (shard for plan in self._plans.values() for shard in plan.shard_ids())
        self._report.missing = [shard for shard in planned if shard not in revisions]
        self._report.shards = self._report.shards_planned - len(self._report.missing)
        return known

    def _add(self, look: ShardLook) -> None:
        """Count one shard in."""
        report, rows = self._report, look.rows
        report.findings += look.findings
        if look.record is not None:
            report.statuses.update(look.record.counts)
            report.bytes += sum(file.size for file in look.record.files.values())
        if rows.unpublished:
            report.unpublished.append(look.shard)
        report.images += rows.images
        report.instances += rows.instances
        report.masks += rows.masks
        for (index, name), _ in sorted(rows.categories.items()):
            self._check_category(index, name, look.shard)

    def _check_category(self, index: int, name: str, shard: str) -> None:
        """Hold a class's index and name against those met before."""
        by_index, by_name = self._names.setdefault(index, name), self._indices.setdefault(name, index)
        if (by_index, by_name) != (name, index):
            known = f"{index} {by_index!r}" if by_index != name else f"{by_name} {name!r}"
            what = f"class {index} {name!r}, which is {known} before"
            self._note(Fault.CATEGORY, public_key("instances", shard), what, redo(shard))

    def _leftovers(self) -> Leftovers | None:
        try:
            return find(self._store)
        except (LedgerError, PlanError, NotFound):
            return None


def _more(times: int) -> str:
    return f" (and {times:,} more like it)" if times else ""


def _shares(sample: int | None, shards: int) -> Iterator[int | None]:
    """How many masks to decode of each shard."""
    for at in range(shards):
        yield None if sample is None else (at + 1) * sample // shards - at * sample // shards
