"""`condinst status`: how far a job is, from what its output holds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.progress import duration
from jobs.resolve import standing_job
from jobs.tally import Tally
from jobs.target import no_job, open_target
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.storage import Store, StoreError, StoreOptions

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
    if tally.shards < shards:
        signs = _signs_of_life(store)
        console.print(_outlook(signs, images - tally.images), highlight=False)
        if signs:
            console.print(_workers(signs))


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


def _outlook(signs: Sequence[Mapping[str, Any]], left: int) -> str:
    """What the workers that are alive will need for the rest, or what to do when there is none."""
    alive = [sign for sign in signs if time.time() - sign["time"] < SILENT_SECONDS]
    if not alive:
        return "no worker is at work; run the job again to continue it"
    rate = sum(sign["images"] / max(1.0, sign["time"] - sign["started"]) for sign in alive)
    ending = f", about {duration(left / rate)} left" if rate > 0 else ""
    return f"{len(alive)} workers at work, {rate:.1f} images/s{ending}"


def _signs_of_life(store: Store) -> list[dict[str, Any]]:
    """What each worker last said; a sign that vanishes or is broken while it is read is left out."""
    signs = []
    for info in store.list("_progress/"):
        try:
            sign = json.loads(store.get(info.key))
            signs.append({key: sign[key] for key in ("worker", "time", "started", "images", "shards")})
        except (StoreError, ValueError, KeyError, TypeError):
            continue
    return signs


def _workers(signs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("worker", "last sign", "images", "in work"):
        table.add_column(heading)
    now = time.time()
    for sign in signs:
        age = now - float(sign["time"])
        last = f"{duration(age)} ago" + (", silent" if age > SILENT_SECONDS else "")
        work = ", ".join(
            f"{shard} {part['done']:.0f}/{part['images']:.0f} for {duration(now - part['since'])}"
            for shard, part in sorted(sign["shards"].items())
        )
        table.add_row(escape(str(sign["worker"])), last, f"{sign['images']:,}", escape(work))
    return table
