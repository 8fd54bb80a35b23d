"""`condinst plan`: what a run would do, and what it would take. Writes nothing, anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.costs import Ahead, say_cost
from jobs.crowding import crowding_note
from jobs.errors import one_line
from jobs.estimate import HEADERS
from jobs.picking import picked
from jobs.picking import sample as sampled
from jobs.resolve import open_output, settings_of
from jobs.segment import changed, freeze_input
from jobs.spec import SegmentSpec
from jobs.standing import free_for_segmenting, refuse_other_job, standing_job
from jobs.tally import Tally
from jobs.target import no_job, open_target
from jobs.tiling_notes import refused_note, tiling_notes
from pipeline.growing import known_rows
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, Scan, load_plans, scan
from pipeline.nouns import many
from pipeline.plan import shard_place, untold, window_plans
from pipeline.records import ImageRef
from pipeline.sampling import Sample
from pipeline.settings import SegmentSettings
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.planning import extend_tiled, open_windows


def preview(
    spec: SegmentSpec, console: Console | None = None, *, like: str | None = None, check: bool = False
) -> None:
    """Print what `run` would do with this spec, and what it would take by the runs of `like` or its own.

    `check` also opens the model and some images. Raises what `run` would raise before it starts: InputError,
    WeightsError, StoreError, FingerprintMismatch; JobError where `like` holds no job.
    """
    console = console or Console()
    store = open_output(spec)
    runs = _runs_of(like) if like else store
    ledger = Ledger(store)
    standing = standing_job(ledger)
    settings = settings_of(spec, standing)
    if standing is None:
        free_for_segmenting(store)
    else:
        refuse_other_job(store, standing, spec, settings)
    plans = load_plans(store)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", escape(spec.name))
    if settings.tiling is None:
        ahead = _say_input(table, spec, settings, ledger, plans)
    else:
        ahead = _say_rasters(table, spec, settings, ledger, plans)
    table.add_row("workers", _workers(spec, ahead.shards))
    if note := crowding_note(spec.workers, max(ahead.shards, ahead.rasters)):
        table.add_row("[yellow]note[/]", f"run without a cluster, {note}")
    model = f"{spec.model.weights}, sha256 {settings.model_digest[:12]}, {settings.precision}"
    table.add_row("model", escape(model))
    table.add_row("output", escape(store.uri))
    if ahead.left:
        say_cost(table, spec, settings, ahead, runs)
    console.print(table)
    if plans and not ahead.left:
        console.print("complete: a run would do nothing", highlight=False)
    if check:
        from jobs.checking import check_model

        check_model(settings, ahead.sample, console)


def _runs_of(like: str) -> Store:
    """The output whose runs are to be measured by. Raises JobError where no job ever ran, StoreError."""
    store = open_target(like, StoreOptions())
    if standing_job(Ledger(store)) is None:
        error = no_job(store)
        raise type(error)(f"--like: {error}")
    return store


def _say_rasters(
    table: Table, spec: SegmentSpec, settings: SegmentSettings, ledger: Ledger, plans: Sequence[Plan]
) -> Ahead:
    """The same of a tiled job: each new raster's header is read, as the run itself will."""
    listed, store, tiling = _listed(plans), ledger.store, settings.tiling
    assert tiling is not None
    with tempfile.TemporaryDirectory(prefix="condinst-plan-") as folder:
        scratch = Store.open(folder)
        if not plans:
            plans = [freeze_input(spec, settings, scratch)]
            more, sample = None, picked(scratch, plans, HEADERS)
            notes = refused_note(scratch, plans[0])
            _say_found(table, "input", _frozen(plans), "raster", listed)
        else:
            _say_found(table, "input", _frozen(plans), "raster", listed)
            more = _new_rasters(table, settings, scratch, ledger, plans)
            sample = picked(scratch, [more], HEADERS) if more else picked(store, plans, HEADERS)
            notes = refused_note(scratch, more) if more else []
    plans = [*plans, *filter(None, [more])]
    windows = window_plans(plans)
    shards, stitching = sum(plan.shards for plan in windows), sum(plan.shards for plan in plans)
    pending, unstitched = Ledger(open_windows(store)).pending(windows), len(ledger.pending(plans))
    total = sum(plan.images for plan in windows)
    each = f"{tiling.size}x{tiling.size} pixels, {tiling.overlap} shared"
    table.add_row("windows", f"{total:,} of {each}")
    table.add_row(
        "shards",
        f"{shards:,} of {many(spec.shards.images, 'window')}; "
        f"{shards - len(pending):,} done, {len(pending):,} to do",
    )
    table.add_row("", f"{stitching:,} that stitch; {stitching - unstitched:,} done, {unstitched:,} to do")
    crs = next((plan.crs for plan in plans if plan.crs), "")
    table.add_row("geometries", escape(crs[:80]) or "none" + ": no raster says where it lies" * bool(total))
    for note in [*notes, *tiling_notes(tiling, plans, grown=more is not None)]:
        table.add_row("[yellow]note[/]", escape(one_line(note)))
    return Ahead(
        images=sum(windows[generation].rows(number) for generation, number in map(shard_place, pending)),
        shards=len(pending),
        size=windows[0].shard_size,
        sample=sample,
        rasters=unstitched,
        stitched=total * unstitched // stitching,
    )


def _new_rasters(
    table: Table, settings: SegmentSettings, scratch: Store, ledger: Ledger, plans: Sequence[Plan]
) -> Plan | None:
    """Plan in a scratch place what a run would add to the output, if anything; say what that is."""
    if settings.tiling is None or not any(source.new for source in settings.sources):
        return None
    known = known_rows(ledger, plans)
    more, found = extend_tiled(settings.sources, scratch, plans, known, settings.tiling, settings.limits)
    _say_new(table, found, "raster", plans)
    return more


def _say_new(table: Table, found: Scan, what: str, plans: Sequence[Plan]) -> None:
    """Say what is not in the plans yet, without what was said of them already."""
    more = replace(found, skipped=untold(found.skipped, plans))
    _say_found(table, "new", more, what, changed(found))


def _say_found(table: Table, heading: str, found: Scan, what: str, more: str) -> None:
    table.add_row(heading, f"{many(found.images, what)}, {readable_bytes(found.bytes)}" + more)
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
) -> Ahead:
    """Say what the input holds and how it is cut; returns what of it is to be done."""
    sample = Sample(HEADERS)
    found = _frozen(plans) if plans else scan(settings.sources, ledger.store, sample=sample)
    _say_found(table, "input", found, "image", _listed(plans))
    size = plans[-1].shard_size if plans else spec.shards.images
    more = Scan(0, 0, {})
    if plans and any(source.new for source in settings.sources):
        more = scan(settings.sources, ledger.store, known_rows(ledger, plans), sample)
        _say_new(table, more, "image", plans)
    cut = sum(plan.shards for plan in plans) if plans else -(-found.images // size)
    shards = cut + -(-more.images // size)
    done = Tally.of(ledger.records()) if plans else Tally()
    table.add_row(
        "shards",
        f"{shards:,} of {many(size, 'image')}; {done.shards:,} done, {shards - done.shards:,} to do",
    )
    refs = sample.refs or _planned(settings, ledger.store, plans)
    return Ahead(found.images + more.images - done.images, shards - done.shards, size, refs)


def _planned(settings: SegmentSettings, store: Store, plans: Sequence[Plan]) -> list[ImageRef]:
    return sampled(settings, store, HEADERS) if plans else []


def _frozen(plans: Sequence[Plan]) -> Scan:
    skipped: dict[str, int] = {}
    for plan in plans:
        for reason, count in plan.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    return Scan(sum(plan.images for plan in plans), sum(plan.bytes for plan in plans), skipped)


def _listed(plans: Sequence[Plan]) -> str:
    if len(plans) > 1:
        return f" (as listed by {len(plans)} runs)"
    return " (as listed by the first run; input.mode: new looks again)" if plans else ""


def _workers(spec: SegmentSpec, pending: int) -> str:
    workers = spec.workers
    each = f"{workers.cpus} CPU" + (f" and {workers.gpus:g} GPU" if workers.gpus else "")
    used = min(workers.most, pending)
    number = f"{workers.most}" if workers.least == workers.most else f"{workers.least} to {workers.most}"
    return f"{number} of {each}" + (f"; the shards left keep {used} busy" if used < workers.most else "")
