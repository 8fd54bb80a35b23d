"""`condinst plan`: what a run would do, and what it would take. Writes nothing, anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.errors import one_line
from jobs.estimate import HEADERS, Estimate, Headers, Rate, estimate, measured, read_headers
from jobs.progress import duration
from jobs.resolve import open_output, refuse_other_settings, settings_of, standing_job
from jobs.segment import freeze_input
from jobs.spec import SegmentSpec
from jobs.tally import Tally
from jobs.target import open_target
from pipeline.growing import known_rows
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, Scan, load_plans, scan
from pipeline.plan import window_plans
from pipeline.records import ImageRef
from pipeline.sampling import Sample
from pipeline.settings import SegmentSettings
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.planning import open_windows

TRIED = 10
"""Windows that `--check` may try."""
SHOWN = 3
"""Refused inputs that are shown."""


@dataclass(frozen=True)
class _Ahead:
    """What there is to do."""

    images: int
    """Of a tiled job, stitch shards: none are left where a run would do nothing."""
    shards: int
    sample: Sequence[ImageRef]


def preview(
    spec: SegmentSpec, console: Console | None = None, *, like: str | None = None, check: bool = False
) -> None:
    """Print what `run` would do with this spec, and what it would take by the runs of `like` or its own.

    `check` also opens the model and some images. Raises what `run` would raise before it starts: InputError,
    WeightsError, StoreError, FingerprintMismatch.
    """
    console = console or Console()
    store = open_output(spec)
    ledger = Ledger(store)
    standing = standing_job(ledger)
    settings = settings_of(spec, standing)
    if standing is not None:
        refuse_other_settings(store, standing, settings)
    plans = load_plans(store)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", escape(spec.name))
    if settings.tiling is None:
        ahead = _say_input(table, spec, settings, ledger, plans)
    else:
        ahead = _say_rasters(table, spec, settings, store, plans)
    table.add_row("workers", _workers(spec, ahead.shards))
    model = f"{spec.model.weights}, sha256 {settings.model_digest[:12]}, {settings.precision}"
    table.add_row("model", escape(model))
    table.add_row("output", escape(store.uri))
    if ahead.images and settings.tiling is None:
        _say_cost(table, spec, settings, ahead, open_target(like, StoreOptions()) if like else store)
    console.print(table)
    if plans and not ahead.images:
        console.print("complete: a run would do nothing", highlight=False)
    if check:
        from jobs.checking import check_model

        check_model(settings, ahead.sample, console)


def _say_rasters(
    table: Table, spec: SegmentSpec, settings: SegmentSettings, store: Store, plans: Sequence[Plan]
) -> _Ahead:
    """The same of a tiled job: each raster's header is read, as the run itself will."""
    listed, tiling = _listed(plans), settings.tiling
    assert tiling is not None
    sample = _windows(store, plans)
    if not plans:
        with tempfile.TemporaryDirectory(prefix="condinst-plan-") as scratch:
            plans = [freeze_input(spec, settings, Store.open(scratch))]
            sample = _windows(Store.open(scratch), plans)
    windows, found = window_plans(plans), _frozen(plans)
    shards, stitching = sum(plan.shards for plan in windows), sum(plan.shards for plan in plans)
    done, stitched = len(Ledger(open_windows(store)).committed(windows)), len(Ledger(store).committed(plans))
    table.add_row("input", f"{found.images:,} rasters, {readable_bytes(found.bytes)}" + listed)
    _say_skipped(table, found)
    each = f"{tiling.size}x{tiling.size} pixels, {tiling.overlap} shared"
    table.add_row("windows", f"{sum(plan.images for plan in windows):,} of {each}")
    table.add_row(
        "shards", f"{shards:,} of {spec.shards.images:,} windows; {done:,} done, {shards - done:,} to do"
    )
    table.add_row("", f"{stitching:,} that stitch; {stitched:,} done, {stitching - stitched:,} to do")
    crs = next((plan.crs for plan in plans if plan.crs), "")
    table.add_row("geometries", escape(crs[:80]) or "none: no raster says where it lies")
    return _Ahead(stitching - stitched, shards - done, sample)


def _windows(store: Store, plans: Sequence[Plan]) -> list[ImageRef]:
    from jobs.try_job import picked

    return picked(store, plans, TRIED) if plans else []


def _say_skipped(table: Table, found: Scan) -> None:
    for reason, count in sorted(found.skipped.items()):
        table.add_row("skipped", f"{count:,} {escape(reason.replace('_', ' '))}")


def readable_bytes(count: int) -> str:
    """`812 B`, `3.4 MB`, `1.2 TB`, in powers of 1000."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _say_input(
    table: Table, spec: SegmentSpec, settings: SegmentSettings, ledger: Ledger, plans: Sequence[Plan]
) -> _Ahead:
    """Say what the input holds and how it is cut; returns what of it is to be done."""
    sample = Sample(HEADERS)
    found = _frozen(plans) if plans else scan(settings.sources, ledger.store, sample=sample)
    table.add_row("input", f"{found.images:,} images, {readable_bytes(found.bytes)}" + _listed(plans))
    _say_skipped(table, found)
    size = plans[-1].shard_size if plans else spec.shards.images
    more = Scan(0, 0, {})
    if plans and any(source.new for source in settings.sources):
        more = scan(settings.sources, ledger.store, known_rows(ledger, plans), sample)
        changed = f", {more.changed:,} of them changed since they were done" if more.changed else ""
        table.add_row("new", f"{more.images:,} images, {readable_bytes(more.bytes)}{changed}")
    cut = sum(plan.shards for plan in plans) if plans else -(-found.images // size)
    shards = cut + -(-more.images // size)
    done = Tally.of(ledger.records()) if plans else Tally()
    table.add_row(
        "shards", f"{shards:,} of {size:,} images; {done.shards:,} done, {shards - done.shards:,} to do"
    )
    refs = sample.refs or _planned(settings, ledger.store, plans)
    return _Ahead(found.images + more.images - done.images, shards - done.shards, refs)


def _planned(settings: SegmentSettings, store: Store, plans: Sequence[Plan]) -> list[ImageRef]:
    from jobs.try_job import sample

    return sample(settings, store, HEADERS) if plans else []


def _say_cost(table: Table, spec: SegmentSpec, settings: SegmentSettings, ahead: _Ahead, runs: Store) -> None:
    headers = read_headers(Inputs(settings.sources), ahead.sample)
    if headers.megapixels is not None:
        sizes = f"{headers.megapixels:.2f} megapixels on average, {headers.largest:.2f} the largest"
        table.add_row("headers", f"of {headers.looked_at:,} inputs: {sizes}")
    for name, why in headers.refused[:SHOWN]:
        table.add_row("refused", escape(one_line(f"{name}: {why}")))
    if len(headers.refused) > SHOWN:
        table.add_row("", f"and {len(headers.refused) - SHOWN:,} more of {headers.looked_at:,}")
    rate = measured(runs)
    if rate is None:
        table.add_row("estimate", "none: nothing was run yet to measure; give a like job's output as --like")
        return
    workers = max(1, min(spec.workers.most, ahead.shards))
    price = spec.price_per_gpu_hour
    cost = estimate(rate, headers, ahead.images, ahead.shards, workers, settings.gpus, price)
    for heading, words in _cost(cost, rate, headers, workers, spec, runs):
        table.add_row(heading, escape(words))


def _cost(
    cost: Estimate, rate: Rate, headers: Headers, workers: int, spec: SegmentSpec, runs: Store
) -> list[tuple[str, str]]:
    hours = f"{cost.gpu_hours:.2f} GPU hours" if cost.gpu_hours else f"{cost.worker_hours:.2f} worker hours"
    money = "" if cost.gpu_cost is None else f", {_dollars(cost.gpu_cost)}"
    rows = [("estimate", f"{duration(cost.seconds)} on {workers:,} workers: {hours}{money}")]
    if spec.max_gpu_hours is not None and cost.gpu_hours > spec.max_gpu_hours:
        rows.append(
            ("", f"more than max_gpu_hours, {spec.max_gpu_hours:g}: the run will stop before its end")
        )
    speed = f"{1 / rate.seconds_per_image:.1f} images/s a worker, {rate.start:.0f} s to start and end"
    rows.append(("measured", f"{rate.images:,} images of {runs.uri}: {speed}"))
    requests = f"{cost.writes:,} writes and listings, {cost.reads:,} reads"
    rows.append(("requests", f"{requests}: {_dollars(cost.request_cost)} at S3's list price"))
    return rows


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 else f"${amount:.4f}"


def _frozen(plans: Sequence[Plan]) -> Scan:
    skipped: dict[str, int] = {}
    for plan in plans:
        for reason, count in plan.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return Scan(sum(plan.images for plan in plans), sum(plan.bytes for plan in plans), skipped)


def _listed(plans: Sequence[Plan]) -> str:
    if len(plans) > 1:
        return f" (as listed by {len(plans)} runs)"
    return " (as listed by the first run)" if plans else ""


def _workers(spec: SegmentSpec, pending: int) -> str:
    workers = spec.workers
    each = f"{workers.cpus} CPU" + (f" and {workers.gpus:g} GPU" if workers.gpus else "")
    used = min(workers.most, pending)
    number = f"{workers.most}" if workers.least == workers.most else f"{workers.least} to {workers.most}"
    return f"{number} of {each}" + (f"; the shards left keep {used} busy" if used < workers.most else "")
