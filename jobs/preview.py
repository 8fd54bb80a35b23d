"""`condinst plan`: what a run would do. Writes nothing, anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.resolve import open_output, refuse_other_settings, settings_of, standing_job
from jobs.spec import SegmentSpec
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, Scan, load_plans, scan


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
    used = min(workers.most, pending)
    number = f"{workers.least} to {workers.most}" if workers.least < workers.most else f"{workers.most}"
    return f"{number} of {each}" + (f"; the shards left keep {used} busy" if used < workers.most else "")
