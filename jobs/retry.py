"""`condinst retry`: does inputs that ended badly again, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.check import load
from jobs.driving import REPEAT, Drive
from jobs.errors import Incomplete, JobError
from jobs.limits import Limits
from jobs.report import SUMMARY_KEY
from jobs.resolve import refuse_other_settings, settings_of, spec_of, standing_job
from jobs.run_report.page import put_report
from jobs.segment import account
from jobs.spec import SegmentSpec
from jobs.tally import Tally
from jobs.target import is_spec, no_job, open_target
from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.plan import window_plans
from pipeline.results import ShardResult
from pipeline.retry import RETRIABLE, Retry, count_culprits, forget_culprits, request
from pipeline.settings import SegmentSettings
from pipeline.stopping import clear_cancel
from pipeline.storage import Store, StoreOptions


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    statuses: frozenset[str]
    poison: bool = False
    """Also images that killed their worker."""
    dry_run: bool = False
    local: bool = False


def parse_statuses(text: str) -> frozenset[str]:
    """`corrupt,failed` as a set. Raises JobError for what cannot be retried."""
    statuses = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not statuses or statuses - RETRIABLE:
        wrong = ", ".join(sorted(statuses - RETRIABLE)) or "nothing"
        raise JobError(f"--status: {wrong} cannot be retried; give some of {','.join(sorted(RETRIABLE))}")
    return statuses


def retry_output(target: str, options: StoreOptions, wanted: Wanted, console: Console | None = None) -> None:
    """Do the inputs of these statuses again and commit their shards anew; with `dry_run` only say which.

    Raises JobError where no job ever ran, FingerprintMismatch when the weights or settings are others now,
    Incomplete when shards are left, and what a run raises.
    """
    console = console or Console()
    store = open_target(target, options)
    ledger = Ledger(store)
    job = standing_job(ledger)
    if job is None:
        raise no_job(store)
    if window_plans(load_plans(store)):
        raise JobError(
            f"{store.uri} is a tiled job's output, whose windows cannot be retried one by one; run its spec "
            "with another output, and exclude what is well"
        )
    spec = load(Path(target)) if is_spec(target) else spec_of(job, store)
    settings = replace(settings_of(spec, job), output=store.uri, output_options=store.options)
    refuse_other_settings(store, job, settings)
    if not wanted.dry_run:
        clear_cancel(store)
        ledger.repair()
    before = {commit.shard: commit for commit in ledger.records()}
    chosen = _chosen(store, before.values(), wanted)
    images = sum(chosen.values())
    console.print(f"{images:,} inputs in {len(chosen):,} shards {_listed(wanted)}", highlight=False)
    if wanted.dry_run:
        console.print(_table(_statuses(before.values()), None))
        console.print("nothing was changed; without --dry-run they are done again", highlight=False)
    elif chosen:
        _Retrying(store, ledger, job, settings, spec, wanted, console).run(before, chosen)
    else:
        console.print("nothing to retry", highlight=False)


def _chosen(store: Store, commits: Iterable[Commit], wanted: Wanted) -> dict[str, int]:
    """How many inputs of which shards are to be done again."""
    spared = count_culprits(store) if "failed" in wanted.statuses and not wanted.poison else {}
    chosen = {
        commit.shard: sum(commit.counts.get(status, 0) for status in wanted.statuses)
        - spared.get(commit.shard, 0)
        for commit in commits
    }
    return {shard: number for shard, number in chosen.items() if number > 0}


@dataclass
class _Retrying:
    """One retry that changes something."""

    store: Store
    ledger: Ledger
    job: dict[str, object]
    settings: SegmentSettings
    spec: SegmentSpec
    wanted: Wanted
    console: Console

    def run(self, before: Mapping[str, Commit], chosen: Mapping[str, int]) -> None:
        """Do the shards, then print what came of it and write the summary anew."""
        revisions = {shard: before[shard].revision for shard in chosen}
        note, retry = request(self.store, self.wanted.statuses, revisions)
        if self.wanted.poison:
            forget_culprits(self.store, retry.revisions)
        if resumed := len(chosen) - len(retry.revisions):
            self.console.print(f"{resumed:,} shards were done by a retry that was cut off", highlight=False)
        this_run: dict[str, object] = {"images": 0}
        if retry.revisions:
            this_run = self._drive(retry, before, chosen)
        left = retry.left(self.ledger)
        after = Tally.of(self.ledger.records())
        self.console.print(_table(_statuses(before.values()), after.statuses))
        if left:
            some = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
            raise Incomplete(f"{len(left):,} shards were not retried ({some}); {REPEAT}")
        self.store.delete([note])
        self._summarize(this_run)

    def _drive(
        self, retry: Retry, before: Mapping[str, Commit], chosen: Mapping[str, int]
    ) -> dict[str, object]:
        shards = sorted(retry.revisions)
        workers = 0 if self.wanted.local else min(self.spec.workers.most, len(shards))
        total = sum(chosen[shard] for shard in shards)
        drive = Drive(self.store, self.settings, shards, workers, Tally(), total, self.console, retry)
        drive.least, drive.limits = (
            self.spec.workers.least,
            Limits.of(self.spec).after(Tally.of(before.values()), self.settings.gpus),
        )
        drive.count = lambda result: _redone(result, before[result.shard], chosen[result.shard], self.wanted)
        return {**drive.run(), "retry": sorted(self.wanted.statuses)}

    def _summarize(self, this_run: dict[str, object]) -> None:
        plans = load_plans(self.store)
        try:
            accounts = account(self.ledger, plans, self.job, this_run)
        except Incomplete as error:
            self.console.print(f"the job itself is not complete: {error}", style="yellow", highlight=False)
            return
        self.store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
        put_report(self.store, self.console)


def _redone(result: ShardResult, before: Commit, chosen: int, wanted: Wanted) -> ShardResult:
    """A shard's result without the rows that were taken over."""
    kept = Counter(before.counts)
    for status in wanted.statuses:
        kept[status] = 0
    counts = Counter(result.counts)
    counts.subtract(kept)
    spared = sum(counts.values()) - chosen
    counts["failed"] -= spared  # images that are known to kill their worker stay as they were
    classes = Counter(result.classes)
    classes.subtract(before.classes)
    return replace(
        result,
        counts={status: number for status, number in counts.items() if number > 0},
        classes={name: number for name, number in classes.items() if number > 0},
        instances=result.instances - before.instances,
        bytes=max(0, result.bytes - before.bytes),
    )


def _statuses(commits: Iterable[Commit]) -> Counter[str]:
    return Tally.of(commits).statuses


def _listed(wanted: Wanted) -> str:
    ended = f"ended {' or '.join(sorted(wanted.statuses))}"
    if "failed" in wanted.statuses and not wanted.poison:
        ended += ", without those that killed their worker (--poison takes them too)"
    return ended


def _table(before: Mapping[str, int], after: Mapping[str, int] | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("status", "before", *(() if after is None else ("after",))):
        table.add_column(heading)
    names: Sequence[str] = sorted({*before, *(after or {})})
    for name in names:
        counts = [before] if after is None else [before, after]
        table.add_row(name, *(f"{count.get(name, 0):,}" for count in counts))
    return table
