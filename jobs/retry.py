"""`condinst retry`: does inputs that ended badly again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from jobs.check import load
from jobs.errors import Incomplete, JobError
from jobs.report import SUMMARY_KEY
from jobs.resolve import require_device, settings_of, spec_of
from jobs.retry_windows import RetryingWindows
from jobs.retrying import Retrying, Wanted
from jobs.run_report.page import put_report
from jobs.segment import account
from jobs.standing import refuse_other_settings, standing_job
from jobs.target import is_spec, no_job, open_target
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.plan import Plan, window_plans
from pipeline.retry import RETRIABLE
from pipeline.stopping import clear_cancel
from pipeline.storage import StoreOptions


def parse_statuses(text: str) -> frozenset[str]:
    """`corrupt,failed` as a set. Raises JobError for what cannot be retried."""
    statuses = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not statuses or statuses - RETRIABLE:
        wrong = ", ".join(sorted(statuses - RETRIABLE)) or "nothing"
        raise JobError(f"--status: {wrong} cannot be retried; give some of {','.join(sorted(RETRIABLE))}")
    return statuses


def retry_output(target: str, options: StoreOptions, wanted: Wanted, console: Console | None = None) -> None:
    """Do the inputs of these statuses again and commit their shards anew; with `dry_run` only say which.

    Of a tiled output the windows are done again, then their rasters stitched. Raises JobError where no job
    ever ran, FingerprintMismatch when the weights or settings are others now, Incomplete when shards are
    left, and what a run raises.
    """
    console = console or Console()
    store = open_target(target, options)
    ledger = Ledger(store)
    job = standing_job(ledger)
    if job is None:
        raise no_job(store)
    plans = load_plans(store)
    spec = load(Path(target)) if is_spec(target) else spec_of(job, store)
    settings = replace(settings_of(spec, job), output=store.uri, output_options=store.options)
    refuse_other_settings(store, job, settings)
    if not wanted.dry_run:
        if wanted.local:
            require_device(settings, "leave out --local, or retry where there is one")
        clear_cancel(store)
        ledger.repair()
    if window_plans(plans):
        windows = RetryingWindows(store, settings, spec, wanted, console, plans)
        this_run = windows.run()
    else:
        this_run = _retry(Retrying(store, settings, spec, wanted, console))
    if this_run is not None:
        _summarize(ledger, plans, job, this_run, console)


def _retry(retrying: Retrying) -> dict[str, object] | None:
    """Do the inputs of a job without windows; returns what was done, None where nothing was to be."""
    retrying.tell("input")
    if retrying.idle():
        return None
    this_run = retrying.run()
    retrying.done()
    return this_run


def _summarize(
    ledger: Ledger,
    plans: Sequence[Plan],
    job: dict[str, object],
    this_run: dict[str, object],
    console: Console,
) -> None:
    try:
        accounts = account(ledger, plans, job, this_run)
    except Incomplete as error:
        console.print(f"the job itself is not complete: {error}", style="yellow", highlight=False)
        return
    ledger.store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
    put_report(ledger.store, console)
