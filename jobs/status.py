"""`condinst status`: how far a job is, from what its output holds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.errors import one_line
from jobs.progress import duration
from jobs.resolve import standing_job
from jobs.tally import Tally
from jobs.target import no_job, open_target
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.plan import window_plans
from pipeline.retry import unfinished
from pipeline.signs import PATIENCE, ShardSign, WorkerSign, read_signs
from pipeline.stopping import cancel_requested
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.planning import open_windows

SILENT_SECONDS = 60.0
"""A worker that has not said anything for longer is shown as silent: it says something every ten seconds."""


def show_status(target: str, options: StoreOptions, console: Console | None = None) -> None:
    """Print how far the job of an output, or of a spec file, is. Changes nothing.

    Raises JobError where no job ever ran, StoreError when the store cannot be reached.
    """
    console = console or Console()
    store = open_target(target, options)
    ledger = Ledger(store)
    job = standing_job(ledger)
    if job is None:
        raise no_job(store)
    plans = load_plans(store)
    tally = Tally.of(ledger.records())
    shards, images = sum(plan.shards for plan in plans), sum(plan.images for plan in plans)
    console.print(_overview(job, shards, images, tally))
    _print_requests(store, console)
    signs, noun = read_signs(store), "images"
    left = images - tally.images
    if (cut := window_plans(plans)) and tally.shards < shards:
        planned = sum(plan.images for plan in cut)
        windows = open_windows(store)
        done = Tally.of(Ledger(windows).records())
        ended = ", ".join(f"{count:,} {escape(status)}" for status, count in sorted(done.statuses.items()))
        console.print(f"windows   {done.images:,} of {planned:,}" + (f": {ended}" if ended else ""))
        if done.images < planned:
            signs, left, noun = read_signs(windows), planned - done.images, "windows"
    if tally.shards < shards:
        console.print(_outlook(signs, left, noun), highlight=False)
    if signs and (tally.shards < shards or any(_alive(sign) for sign in signs)):
        console.print(_workers(signs))


def _print_requests(store: Store, console: Console) -> None:
    """Say what was asked of the job and is not done yet."""
    if (asked := cancel_requested(store)) is not None:
        ago = duration(max(0.0, time.time() - asked))
        console.print(f"cancel requested {ago} ago; the next run clears it", style="yellow", highlight=False)
    for place in (store, open_windows(store)):
        for retry in unfinished(place):
            statuses = ", ".join(sorted(retry.statuses))
            left = f"{len(retry.left(Ledger(place))):,} of {len(retry.revisions):,} shards left"
            console.print(escape(one_line(f"a retry of {statuses} is not done: {left}")), style="yellow")


def _overview(job: dict[str, object], shards: int, images: int, tally: Tally) -> Table:
    state = "complete" if shards and tally.shards == shards else "not complete"
    if not shards:
        state = "not planned yet"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", f"{escape(str(job.get('name', '?')))}, {state}")
    table.add_row("shards", f"{tally.shards:,} of {shards:,}")
    table.add_row("images", f"{tally.images:,} of {images:,}")
    for status, count in sorted(tally.statuses.items()):
        table.add_row("", f"{count:,} {escape(status)}")
    table.add_row("instances", f"{tally.instances:,}")
    for label, count in tally.classes.most_common(8):
        table.add_row("", f"{count:,} {escape(label)}")
    return table


def _outlook(signs: Sequence[WorkerSign], left: int, noun: str) -> str:
    """What the workers that are alive will need for the rest, or what to do when there is none."""
    alive = [sign for sign in signs if _alive(sign)]
    if not alive:
        return "no worker is at work; run the job again to continue it"
    rate = sum(sign.images / max(1.0, sign.time - sign.started) for sign in alive)
    ending = f", about {duration(left / rate)} left" if rate > 0 else ""
    return f"{len(alive)} workers at work, {rate:.1f} {noun}/s{ending}"


def _alive(sign: WorkerSign) -> bool:
    return time.time() - sign.time < SILENT_SECONDS


def _workers(signs: Sequence[WorkerSign]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("worker", "last sign", "images", "in work", "last step"):
        table.add_column(heading)
    for sign in signs:
        age = time.time() - sign.time
        last = f"{duration(age)} ago" + (", silent" if age > SILENT_SECONDS else "")
        first = [escape(sign.worker), last, f"{sign.images:,}"]
        for shard in sign.shards or (None,):
            table.add_row(*first, *(("", "") if shard is None else _in_work(shard, sign.time, age)))
            first = ["", "", ""]
    return table


def _in_work(shard: ShardSign, said: float, age: float) -> tuple[str, str]:
    """What a shard is at. Its times are of the worker's clock, as is `said`; `age` has passed since then."""
    work = f"{shard.shard} {shard.done:,}/{shard.images:,} for {duration(said - shard.since + age)}"
    still = said - shard.step_since + age
    step = f"{shard.doing}, {duration(still)} ago"
    return escape(work), escape(step) + (" [yellow]stands still[/]" if still > PATIENCE else "")
