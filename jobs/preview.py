"""`condinst plan`: what a run would do. Writes nothing, anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.resolve import open_output, refuse_other_settings, settings_of, standing_job
from jobs.segment import freeze_input
from jobs.spec import SegmentSpec
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, Scan, load_plans, scan
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.planning import open_windows


def preview(spec: SegmentSpec, console: Console | None = None) -> None:
    """Print what `run` would do with this spec.

    Raises what `run` would raise before it starts: InputError, WeightsError, StoreError, FingerprintMismatch.
    """
    console = console or Console()
    store = open_output(spec)
    ledger = Ledger(store)
    standing = standing_job(ledger)
    settings = settings_of(spec, standing)
    if standing is not None:
        refuse_other_settings(store, standing, settings)
    plans = load_plans(store)
    if settings.tiling is not None:
        _preview_tiled(spec, settings, store, plans, console)
        return
    found = _frozen(plans) if plans else scan(settings.sources, store)
    shards = sum(plan.shards for plan in plans) if plans else -(-found.images // spec.shards.images)
    done = len(ledger.committed(plans))
    size = plans[0].shard_size if plans else spec.shards.images
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", escape(spec.name))
    table.add_row("input", f"{found.images:,} images, {readable_bytes(found.bytes)}" + _listed(plans))
    for reason, count in sorted(found.skipped.items()):
        table.add_row("skipped", f"{count:,} {escape(reason.replace('_', ' '))}")
    table.add_row("shards", f"{shards:,} of {size:,} images; {done:,} done, {shards - done:,} to do")
    table.add_row("workers", _workers(spec, shards - done))
    model = f"{spec.model.weights}, sha256 {settings.model_digest[:12]}, {settings.precision}"
    table.add_row("model", escape(model))
    table.add_row("output", escape(store.uri))
    console.print(table)
    if plans and done == shards:
        console.print("complete: a run would do nothing", highlight=False)


def _preview_tiled(
    spec: SegmentSpec, settings: SegmentSettings, store: Store, plans: Sequence[Plan], console: Console
) -> None:
    """The same of a tiled job: each raster's header is read, as the run itself will."""
    listed = _listed(plans)
    if not plans:
        with tempfile.TemporaryDirectory(prefix="condinst-plan-") as scratch:
            plans = [freeze_input(spec, settings, Store.open(scratch))]
    windows = [plan.windows for plan in plans if plan.windows is not None]
    found, size = _frozen(plans), spec.shards.images
    shards, stitching = sum(plan.shards for plan in windows), sum(plan.shards for plan in plans)
    done, stitched = len(Ledger(open_windows(store)).committed(windows)), len(Ledger(store).committed(plans))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", escape(spec.name))
    table.add_row("input", f"{found.images:,} rasters, {readable_bytes(found.bytes)}" + listed)
    for reason, count in sorted(found.skipped.items()):
        table.add_row("skipped", f"{count:,} {escape(reason.replace('_', ' '))}")
    tiling = settings.tiling
    assert tiling is not None
    each = f"{tiling.size}x{tiling.size} pixels, {tiling.overlap} shared"
    table.add_row("windows", f"{sum(plan.images for plan in windows):,} of {each}")
    table.add_row("shards", f"{shards:,} of {size:,} windows; {done:,} done, {shards - done:,} to do")
    table.add_row("", f"{stitching:,} that stitch; {stitched:,} done, {stitching - stitched:,} to do")
    crs = next((plan.crs for plan in plans if plan.crs), "")
    table.add_row("geometries", escape(crs[:80]) or "none: no raster says where it lies")
    table.add_row("workers", _workers(spec, shards - done))
    model = f"{spec.model.weights}, sha256 {settings.model_digest[:12]}, {settings.precision}"
    table.add_row("model", escape(model))
    table.add_row("output", escape(store.uri))
    console.print(table)
    if listed and stitched == stitching:
        console.print("complete: a run would do nothing", highlight=False)


def readable_bytes(count: int) -> str:
    """`812 B`, `3.4 MB`, `1.2 TB`, in powers of 1000."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _frozen(plans: Sequence[Plan]) -> Scan:
    skipped: dict[str, int] = {}
    for plan in plans:
        for reason, count in plan.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return Scan(sum(plan.images for plan in plans), sum(plan.bytes for plan in plans), skipped)


def _listed(plans: Sequence[Plan]) -> str:
    return " (as listed by the first run)" if plans else ""


def _workers(spec: SegmentSpec, pending: int) -> str:
    workers = spec.workers
    each = f"{workers.cpus} CPU" + (f" and {workers.gpus:g} GPU" if workers.gpus else "")
    used = min(workers.count, pending)
    return f"{workers.count} of {each}" + (
        f"; the shards left keep {used} busy" if used < workers.count else ""
    )
