"""`condinst status`: how far a job or a training is, from what its output holds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs import train_status
from jobs.errors import one_line
from jobs.progress import duration
from jobs.standing import standing_job
from jobs.tally import Tally
from jobs.target import no_job, open_target
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.nouns import many
from pipeline.plan import window_plans
from pipeline.retry import unfinished
from pipeline.signs import PATIENCE, ShardSign, WorkerSign, read_signs
from pipeline.stopping import cancel_requested
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.planning import open_windows

SILENT_SECONDS = 60.0
"""A worker that has not said anything for longer is shown as silent: it says something every ten seconds."""


@dataclass(frozen=True)
class _Seen:
    """What an output says of its segment job."""

    store: Store
    job: dict[str, object]
    shards: int
    images: int
    tally: Tally
    windows: tuple[int, Tally] | None
    """Of a tiled job whose rasters are not all done: the windows planned, and what became of some."""
    signs: Sequence[WorkerSign]
    left: int
    noun: str
    """What is left to do, and what it is."""

    @classmethod
    def of(cls, store: Store, ledger: Ledger, job: dict[str, object]) -> Self:
        plans = load_plans(store)
        tally = Tally.of(ledger.records())
        shards, images = sum(plan.shards for plan in plans), sum(plan.images for plan in plans)
        signs, left, noun, windows = read_signs(store), images - tally.images, "images", None
        if (cut := window_plans(plans)) and tally.shards < shards:
            planned, place = sum(plan.images for plan in cut), open_windows(store)
            windows = planned, Tally.of(Ledger(place).records())
            if windows[1].images < planned:
                signs, left, noun = read_signs(place), planned - windows[1].images, "windows"
        return cls(store, job, shards, images, tally, windows, signs, left, noun)

    @property
    def state(self) -> str:
        """In a word or two."""
        if not self.shards:
            return "not planned yet"
        return "complete" if self.tally.shards == self.shards else "not complete"

    def said(self) -> dict[str, object]:
        """As plain data."""
        asked = cancel_requested(self.store)
        tally = self.tally
        return {
            "kind": "segment",
            "name": self.job.get("name"),
            "output": self.store.uri,
            "state": self.state,
            "shards": {"done": tally.shards, "planned": self.shards},
            "images": {"done": tally.images, "planned": self.images},
            "windows": self.windows and {"done": self.windows[1].images, "planned": self.windows[0]},
            "statuses": dict(sorted(tally.statuses.items())),
            "instances": tally.instances,
            "classes": dict(tally.classes.most_common()),
            "cancel_requested": None if asked is None else max(0.0, time.time() - asked),
            "workers": [{**asdict(sign), "alive": _alive(sign)} for sign in self.signs],
        }


def show_status(
    target: str, options: StoreOptions, console: Console | None = None, *, as_json: bool = False
) -> None:
    """Print how far the job or the training of an output, or of a spec file, is. Changes nothing.

    Raises JobError where none ever ran, StoreError when the store cannot be reached.
    """
    console = console or Console()
    store = open_target(target, options)
    ledger = Ledger(store)
    job = standing_job(ledger)
    if job is None:
        training = train_status.look(store)
        if training is None:
            raise no_job(store)
        if as_json:
            print(json.dumps(training.said(), indent=2))
        else:
            console.print(train_status.page(training))
        return
    seen = _Seen.of(store, ledger, job)
    if as_json:
        print(json.dumps(seen.said(), indent=2))
    else:
        _print(seen, console)


def _print(seen: _Seen, console: Console) -> None:
    console.print(_overview(seen))
    _print_requests(seen.store, console)
    if seen.windows is not None:
        planned, done = seen.windows
        ended = ", ".join(f"{count:,} {escape(status)}" for status, count in sorted(done.statuses.items()))
        console.print(f"windows   {done.images:,} of {planned:,}" + (f": {ended}" if ended else ""))
    open_ones = seen.tally.shards < seen.shards
    if open_ones:
        console.print(_outlook(seen.signs, seen.left, seen.noun), highlight=False)
    if seen.signs and (open_ones or any(_alive(sign) for sign in seen.signs)):
        console.print(_workers(seen.signs))


def _print_requests(store: Store, console: Console) -> None:
    """Say what was asked of the job and is not done yet."""
    if (asked := cancel_requested(store)) is not None:
        ago = duration(max(0.0, time.time() - asked))
        console.print(f"cancel requested {ago} ago; the next run clears it", style="yellow", highlight=False)
    for place in (store, open_windows(store)):
        for retry in unfinished(place):
            statuses = ", ".join(sorted(retry.statuses))
            left = f"{len(retry.left(Ledger(place))):,} of {many(len(retry.revisions), 'shard')} left"
            console.print(escape(one_line(f"a retry of {statuses} is not done: {left}")), style="yellow")


def _overview(seen: _Seen) -> Table:
    tally = seen.tally
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", f"{escape(str(seen.job.get('name', '?')))}, {seen.state}")
    table.add_row("shards", f"{tally.shards:,} of {seen.shards:,}")
    table.add_row("images", f"{tally.images:,} of {seen.images:,}")
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
    return f"{many(len(alive), 'worker')} at work, {rate:.1f} {noun}/s{ending}"


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
