"""`condinst run`: from a spec to a complete output, or on from where the last run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any

from rich.console import Console

from jobs.errors import Incomplete
from jobs.progress import RunProgress
from jobs.report import SUMMARY_KEY, print_report, summary, versions
from jobs.resolve import open_output, refuse_other_settings, settings_of, standing_job
from jobs.spec import SegmentSpec
from jobs.stopping import stop_on_signals
from jobs.tally import Tally
from pipeline.engine import cluster, run, run_local
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, freeze, load_plans
from pipeline.results import ShardResult
from pipeline.settings import SegmentSettings
from pipeline.storage import NotFound, Store

REPEAT = "run the same command again to do the rest"


def run_job(spec: SegmentSpec, *, local: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Do what the output still lacks; returns its summary, which says the same as `summary.json`.

    Raises Incomplete when shards are missing at the end, Interrupted after a signal, FingerprintMismatch when
    the output holds other rows, ClusterTooSmall, InputError, WeightsError, StoreError.
    """
    console = console or Console()
    store = open_output(spec)
    ledger = Ledger(store)
    standing = standing_job(ledger)
    settings = settings_of(spec, standing)
    if standing is None:
        ledger.start()
    else:
        refuse_other_settings(store, standing, settings)
    # The input is frozen before the output is claimed: a spec whose input is not there leaves no trace.
    plans = _plans(store, spec, settings, console)
    job = ledger.claim(job_record(spec, settings))
    _tell_other_input(job, spec, console)
    ledger.repair()
    pending = ledger.pending(plans)
    if not pending:
        return _complete_already(ledger, plans, job, console)
    workers = 0 if local else min(spec.workers.count, len(pending))
    this_run = _do(ledger, plans, pending, settings, workers, console)
    accounts = account(ledger, plans, job, this_run)
    store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
    print_report(console, accounts, store.uri)
    return accounts


def job_record(spec: SegmentSpec, settings: SegmentSettings) -> dict[str, object]:
    """What `job.json` holds: the spec as it ran, what its rows depend on, the versions. No secrets."""
    return {
        "kind": spec.kind,
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        **settings.job_record(),
    }


def account(
    ledger: Ledger, plans: Sequence[Plan], job: dict[str, object], run: dict[str, object]
) -> dict[str, Any]:
    """The summary of a job whose every input has its row. Raises Incomplete when one has not."""
    missing = ledger.pending(plans)
    planned = sum(plan.images for plan in plans)
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise Incomplete(
            f"{len(missing)} of {sum(plan.shards for plan in plans)} shards are missing ({some}); {REPEAT}"
        )
    tally = Tally.of(ledger.records())
    if tally.images != planned:
        raise Incomplete(
            f"{ledger.store.uri}: {tally.images:,} images have rows but {planned:,} were planned; "
            "the output was changed by another program"
        )
    return summary(tally, plans, job, run)


def _plans(store: Store, spec: SegmentSpec, settings: SegmentSettings, console: Console) -> list[Plan]:
    plans = load_plans(store)
    if plans:
        return plans
    console.print(f"listing the input of {spec.name}", highlight=False)
    return [freeze(settings.sources, store, spec.shards.images, 0)]


def _tell_other_input(job: dict[str, object], spec: SegmentSpec, console: Console) -> None:
    before = job.get("spec")
    if isinstance(before, dict) and before.get("input") != spec.model_dump(mode="json")["input"]:
        console.print(
            "the input differs from the one that this output was planned with: the frozen plan rules; "
            "name another output to segment the new input",
            style="yellow",
        )


def _complete_already(
    ledger: Ledger, plans: Sequence[Plan], job: dict[str, object], console: Console
) -> dict[str, Any]:
    try:
        accounts: dict[str, Any] = json.loads(ledger.store.get(SUMMARY_KEY))
    except (NotFound, ValueError):
        accounts = account(ledger, plans, job, {"images": 0})
        ledger.store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
    console.print("complete already: nothing to do", highlight=False)
    print_report(console, {**accounts, "run": {}}, ledger.store.uri)
    return accounts


def _do(
    ledger: Ledger,
    plans: Sequence[Plan],
    pending: Sequence[str],
    settings: SegmentSettings,
    workers: int,
    console: Console,
) -> dict[str, object]:
    """Run the pending shards, in this process if `workers` is 0; returns what this run did.

    Raises Interrupted after a signal.
    """
    tally = Tally.of(ledger.records())
    before, began = tally.images, time.time()
    watch = _Watch(RunProgress(sum(plan.images for plan in plans), tally, console), tally)
    # Ray takes SIGTERM over when it starts, so the signals are watched inside its cluster.
    with cluster(settings, workers) if workers else nullcontext(), stop_on_signals() as stop, watch.progress:
        if workers:
            run(settings, pending, workers=workers, on_result=watch, stop=stop)
        else:
            run_local(settings, pending, on_result=watch, stop=stop)
    stop.raise_if_set(f"{ledger.store.uri} keeps what is committed: {REPEAT}")
    return {
        "shards": len(pending),
        "workers": max(1, workers),
        "engine": "ray" if workers else "local",
        "images": tally.images - before,
        "seconds": round(time.time() - began, 3),
        "images_per_second": round(watch.rate(tally.images - before), 3),
    }


@dataclass
class _Watch:
    """Takes in each shard's result: counts it and shows it, or tells of its failure."""

    progress: RunProgress
    tally: Tally
    first: float = inf
    last: float = 0.0

    def rate(self, images: int) -> float:
        """Images a second from the first batch of this run to the last; starting the workers is left out."""
        return images / (self.last - self.first) if self.last > self.first else 0.0

    def __call__(self, result: ShardResult) -> None:
        if result.error is None:
            self.tally.add(result)
            self.first, self.last = min(self.first, result.first or inf), max(self.last, result.last or 0.0)
            self.progress.update(result.first)
        else:
            self.progress.warn(f"shard {result.shard} failed: {result.error}")
