"""`condinst run`: from a spec to a complete output, or on from where the last run stopped."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from rich.console import Console

from jobs import structured
from jobs.allowance import Allowance, too_many
from jobs.cautions import tell_cautions
from jobs.conventions import WorkersSection
from jobs.crowding import crowding_note
from jobs.driving import REPEAT, Drive
from jobs.errors import Incomplete, TooManyFailed, first_of, naming
from jobs.limits import Limits
from jobs.report import SUMMARY_KEY, print_report, summary, versions
from jobs.resolve import open_output, require_device, resolved, settings_of
from jobs.run_report.page import put_report
from jobs.spec import SegmentSpec
from jobs.standing import free_for_segmenting, refuse_other_job, standing_job, tell_unheeded
from jobs.tally import Tally
from jobs.tiling_notes import refused_note, tiling_notes
from jobs.windows import STITCHING, WindowStage
from pipeline.engine import cluster
from pipeline.growing import known_rows
from pipeline.ledger import FingerprintMismatch, Ledger
from pipeline.manifest import Plan, Scan, extend, freeze, load_plans
from pipeline.nouns import many
from pipeline.plan import window_plans
from pipeline.settings import SegmentSettings
from pipeline.stopping import clear_cancel
from pipeline.storage import NotFound, Store
from pipeline.tiled.planning import extend_tiled, freeze_tiled, open_windows

ON_CPU = "--set workers.gpus=0 runs the job on the CPU"
TOLD = ("images", "statuses", "instances", "capped", "classes", "shards", "bytes", "seconds", "run")
"""What of the summary the last event says."""


def run_job(spec: SegmentSpec, *, local: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Do what the output still lacks; returns its summary, which says the same as `summary.json`.

    Raises Incomplete when shards are missing at the end, Interrupted after a signal, a request to cancel or a
    limit of the spec, TooManyFailed when more inputs ended badly than the spec allows, FingerprintMismatch
    when the output holds other rows, JobError for a GPU that `local` does not find, ClusterTooSmall,
    InputError, WeightsError, CompileError, StoreError.
    """
    console, limits, began = console or structured.console(), Limits.of(spec), time.time()
    store = open_output(spec)
    ledger = Ledger(store)
    standing = standing_job(ledger)
    settings = settings_of(spec, standing)
    if local and (standing is None or settings.undecided):
        require_device(settings, ON_CPU)
    if standing is None:
        free_for_segmenting(store)
        with naming("output.uri"):
            ledger.start()
    else:
        refuse_other_job(store, standing, spec, settings)
    # The input is frozen before the output is claimed: a spec whose input is not there leaves no trace.
    plans = _plans(ledger, spec, settings, console)
    if settings.undecided:
        settings = _decided(settings, local, console)
    settings, job = _claimed(ledger, spec, settings)
    if standing is not None:
        tell_unheeded(plans, standing, spec, console)
    clear_cancel(store)  # whoever asked for it meant the runs before this one
    ledger.repair()
    allowance = Allowance(spec.max_failed, sum(plan.images for plan in plans))
    there = ledger.standing()
    tally = Tally.of(ledger.records(there))
    pending = ledger.pending(plans, there.revisions)
    planned = {"images": allowance.planned, "shards": sum(plan.shards for plan in plans)}
    structured.event("planned", job=spec.name, output=store.uri, **planned, pending=len(pending))
    if not pending:
        accounts = _complete_already(ledger, plans, job, console)
    elif allowance.exceeded(tally):
        raise too_many(ledger, allowance, tally, "nothing was run")
    else:
        drive = Drive(store, settings, pending, 0, tally, allowance.planned, console, began=began)
        drive.least, drive.limits = spec.workers.least, limits.after(tally, settings.gpus)
        drive.standing = there
        del there  # the drive lets it go
        accounts = _run(ledger, plans, job, drive, allowance, None if local else spec.workers)
    whole = "every input has its row all the same"
    if allowance.exceeded(Tally(statuses=Counter(accounts["statuses"]))):
        raise too_many(ledger, allowance, tally, whole)
    if settings.tiling is not None:
        WindowStage(store, settings, plans, job, console, allowance).demand_few_bad(whole)
    structured.event("complete", **{key: accounts[key] for key in TOLD})
    return accounts


def _claimed(
    ledger: Ledger, spec: SegmentSpec, settings: SegmentSettings
) -> tuple[SegmentSettings, dict[str, object]]:
    """Make the output this job's; where another driver just did, what it decided on `auto` rules."""
    try:
        return settings, ledger.claim(job_record(spec, settings))
    except FingerprintMismatch:
        settings = settings_of(spec, standing_job(ledger))
        return settings, ledger.claim(job_record(spec, settings))


def _decided(settings: SegmentSettings, local: bool, console: Console) -> SegmentSettings:
    """What the spec leaves to a worker's GPU, asked of one; before the output is claimed, and so once."""
    from pipeline.batchsize import fitted

    found = fitted(settings, local=local)
    if not settings.batch_images:
        console.print(
            f"the GPU has room for batches of {found.batch_pixels / 1e6:.0f} megapixels, at most "
            f"{many(found.batch_images, 'image')}",
            highlight=False,
        )
    return found


def _run(
    ledger: Ledger,
    plans: Sequence[Plan],
    job: dict[str, object],
    drive: Drive,
    allowance: Allowance,
    workers: WorkersSection | None,
) -> dict[str, Any]:
    """Run what is pending with workers on Ray, or, where that is None, in this process."""
    most = 0 if workers is None else workers.most
    drive.workers = min(most, len(drive.shards))
    if drive.settings.tiling is None:
        if workers is None:
            require_device(drive.settings, ON_CPU)
        _tell_crowding(workers, len(drive.shards), drive.console)
        return _to_the_end(ledger, plans, job, drive, allowance)
    stage = WindowStage(ledger.store, drive.settings, plans, job, drive.console, allowance)
    pending = stage.pending()
    stage.demand_few_bad("nothing was run")
    if pending and workers is None:
        require_device(drive.settings, ON_CPU)
    first = min(most, len(pending))
    # One cluster for both stages: starting Ray takes seconds.
    most = max(first, drive.workers)
    _tell_crowding(workers, most, drive.console)
    pool = cluster(drive.settings, min(drive.least or most, most)) if workers else nullcontext()
    with pool:
        if pending:
            drive.stages["windows"] = stage.run(pending, first, drive.least, drive.limits)
        drive.settings, drive.doing = drive.settings.of_stitching(), STITCHING
        return _to_the_end(ledger, plans, job, drive, allowance)


def _tell_crowding(workers: WorkersSection | None, shards: int, console: Console) -> None:
    if workers is not None and (note := crowding_note(workers, shards)):
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)


def _to_the_end(
    ledger: Ledger, plans: Sequence[Plan], job: dict[str, object], drive: Drive, allowance: Allowance
) -> dict[str, Any]:
    """Run what is pending and write the summary."""
    drive.enough = allowance.watch
    try:
        this_run = drive.run()
    except TooManyFailed:
        if ledger.pending(plans):
            stopped = f"the job was stopped, {ledger.store.uri} keeps what is committed"
            raise too_many(ledger, allowance, Tally.of(ledger.records()), stopped) from None
        this_run = {"images": 0}
    accounts = account(ledger, plans, job, this_run)
    ledger.store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
    put_report(ledger.store, drive.console)
    print_report(drive.console, accounts, ledger.store.uri)
    tell_cautions(drive.console, ledger, accounts)
    return accounts


def job_record(spec: SegmentSpec, settings: SegmentSettings) -> dict[str, object]:
    """What `job.json` holds: the spec as it ran, what its rows depend on, the versions. No secrets."""
    return {
        "kind": spec.kind,
        "name": spec.name,
        "spec": resolved(spec).model_dump(mode="json"),
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
        shards = sum(plan.shards for plan in plans)
        raise Incomplete(
            f"{len(missing):,} of {many(shards, 'shard')} missing ({first_of(missing)}); {REPEAT}"
        )
    tally = Tally.of(ledger.records())
    if tally.images != planned:
        raise Incomplete(
            f"{ledger.store.uri}: {tally.images:,} images have rows but {planned:,} were planned; "
            "the output was changed by another program"
        )
    return summary(tally, plans, job, run, windows_tally(ledger.store, plans))


def windows_tally(store: Store, plans: Sequence[Plan]) -> Tally | None:
    """What the windows of a tiled job came to; None for a job without."""
    if not window_plans(plans):
        return None
    return Tally.of(Ledger(open_windows(store)).records())


def _plans(ledger: Ledger, spec: SegmentSpec, settings: SegmentSettings, console: Console) -> list[Plan]:
    plans = load_plans(ledger.store)
    if plans and not any(source.new for source in settings.sources):
        return plans
    console.print(f"listing the input of {spec.name}", highlight=False)
    if not plans:
        plans = [freeze_input(spec, settings, ledger.store)]
        _tell_notes(settings, plans, console, ledger.store)
        return plans
    known = known_rows(ledger, plans)
    if settings.tiling is None:
        grown, found = extend(settings.sources, ledger.store, plans, known)
    else:
        grown, found = extend_tiled(
            settings.sources, ledger.store, plans, known, settings.tiling, settings.limits
        )
    console.print(
        f"{many(found.images, 'new image')}{changed(found)}; {found.known:,} known", highlight=False
    )
    if grown is None:
        return plans
    _tell_notes(settings, [*plans, grown], console, ledger.store)
    return [*plans, grown]


def changed(found: Scan) -> str:
    """In words, to follow a number of new inputs: how many of them are there in another version."""
    return f", {found.changed:,} of them changed since they were done" if found.changed else ""


def _tell_notes(settings: SegmentSettings, plans: Sequence[Plan], console: Console, store: Store) -> None:
    if settings.tiling is None:
        return
    for note in [*refused_note(store, plans[-1]), *tiling_notes(settings.tiling, plans, len(plans) > 1)]:
        structured.warn(console, f"note: {note}")


def freeze_input(spec: SegmentSpec, settings: SegmentSettings, store: Store) -> Plan:
    """Freeze the first generation of a job's input, or adopt the one that is there."""
    if settings.tiling is None:
        return freeze(settings.sources, store, spec.shards.images, 0)
    return freeze_tiled(settings.sources, store, spec.shards.images, 0, settings.tiling, settings.limits)


def _complete_already(
    ledger: Ledger, plans: Sequence[Plan], job: dict[str, object], console: Console
) -> dict[str, Any]:
    try:
        accounts: dict[str, Any] = {"capped": 0, **json.loads(ledger.store.get(SUMMARY_KEY))}
        # A run that did the last shards may have died before it wrote their summary.
        if accounts["images"] != sum(plan.images for plan in plans):
            raise KeyError
    except (NotFound, ValueError, KeyError, TypeError):
        accounts = account(ledger, plans, job, {"images": 0})
        ledger.store.put(SUMMARY_KEY, json.dumps(accounts, indent=2).encode())
        put_report(ledger.store, console)
    console.print("complete already: nothing to do", highlight=False)
    print_report(console, {**accounts, "run": {}}, ledger.store.uri)
    tell_cautions(console, ledger, accounts)
    return accounts
