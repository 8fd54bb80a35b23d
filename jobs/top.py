"""`condinst top`: a job as it runs: each worker's rate, stages, stragglers, errors so far."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from jobs import train_status
from jobs.allowance import bad
from jobs.errors import one_line
from jobs.progress import GOOD, duration
from jobs.standing import standing_job
from jobs.status import SILENT_SECONDS
from jobs.tally import Tally
from jobs.target import no_job, open_target
from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.nouns import many
from pipeline.plan import Plan, window_plans
from pipeline.retry import committed_images
from pipeline.signs import PATIENCE, ShardSign, WorkerSign, read_signs
from pipeline.storage import Store, StoreError, StoreOptions
from pipeline.tiled.planning import open_windows

WINDOW = 60.0
"""Seconds over which a worker's rate is taken."""
STRAGGLER = 2.0
"""A shard in work for so many times as long as the middle one took is a straggler."""
ERRORS = 5
"""Errors that are shown, the latest."""
LATEST = 200
"""Shards whose times and stages count: what was a day ago says nothing of now."""


@dataclass
class Seen:
    """What is known of a job, kept between two looks: each look reads what is new alone."""

    output: Store
    job: str
    """The job's name."""
    store: Store
    """Where the stage that is at work commits: the output, or that of a tiled job's windows."""
    plans: list[Plan] = field(default_factory=list)
    shards: int = 0
    images: int = 0
    tally: Tally = field(default_factory=Tally)
    latest: deque[Commit] = field(default_factory=lambda: deque(maxlen=LATEST))
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=ERRORS))
    signs: Sequence[WorkerSign] = ()
    known: dict[str, int] = field(default_factory=dict)
    """Shards that are counted, with their revisions."""
    counted: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)
    """By worker: when it said how many images it had done."""
    told: set[str] = field(default_factory=set)
    """Shards whose errors were read."""

    @classmethod
    def of(cls, output: Store) -> Seen:
        """A job before the first look. Raises JobError where none ever ran, StoreError, PlanError."""
        job = standing_job(Ledger(output))
        if job is None:
            raise no_job(output)
        seen = cls(output, str(job.get("name", "?")), output)
        seen._follow()
        return seen

    @property
    def name(self) -> str:
        """The job's, and of a tiled one whether this is its first stage."""
        return self.job if self.store is self.output else f"{self.job}, windows"

    def look(self) -> None:
        """Read what has changed. Raises StoreError, PlanError."""
        self._follow()
        ledger = Ledger(self.store)
        revisions = ledger.revisions()
        # All at once, from folded records, the first time; then one request a shard that is new.
        fresh = {s: r for s, r in revisions.items() if s not in self.known} if self.known else revisions
        for commit in sorted(ledger.records(fresh), key=lambda commit: commit.committed):
            self.tally.add_commit(commit)
            self.latest.append(commit)
        self.known.update(fresh)
        self._read_errors()
        self.signs = read_signs(self.store)
        for sign in self.signs:
            said = self.counted.setdefault(sign.worker, deque())
            if not said or said[-1][0] != sign.time:
                said.append((sign.time, sign.images))
            while len(said) > 2 and said[-1][0] - said[1][0] >= WINDOW:
                said.popleft()

    @property
    def complete(self) -> bool:
        """Whether nothing of the job is left, as far as its last look goes."""
        return self.store is self.output and self.tally.shards >= self.shards

    def rate(self, sign: WorkerSign) -> float:
        """Images a second that a worker did of late, by its own clock."""
        said = self.counted.get(sign.worker, deque())
        if len(said) > 1:
            return (said[-1][1] - said[0][1]) / max(1e-3, said[-1][0] - said[0][0])
        return sign.images / max(1.0, sign.time - sign.started)

    @property
    def alive(self) -> list[WorkerSign]:
        """Workers that gave a sign of late."""
        return [sign for sign in self.signs if time.time() - sign.time < SILENT_SECONDS]

    @property
    def usual(self) -> float | None:
        """Seconds from the first batch to the last of the middle shard."""
        took = [c.work.last - c.work.first for c in self.latest if c.work.first and c.work.last]
        return statistics.median(took) if took else None

    def _follow(self) -> None:
        """Take in generations that were appended, and go over to the stage of a tiled job that is at work."""
        before, windowed = len(self.plans), self.store is not self.output
        self.plans += load_plans(self.output, before)
        windows = window_plans(self.plans)
        if windows and (len(self.plans) > before or (windowed and self.tally.shards >= self.shards)):
            # First its windows, where the time goes; then the rasters they are stitched to.
            first = open_windows(self.output)
            left = bool(Ledger(first).pending(windows))
            if left != windowed:
                self._turn_to(first if left else self.output)
            windowed = left
        plans = windows if windowed else self.plans
        self.shards, self.images = (sum(getattr(plan, of) for plan in plans) for of in ("shards", "images"))

    def _turn_to(self, store: Store) -> None:
        """Go over to another stage: what was counted of the one before says nothing of it."""
        self.store, self.tally = store, Tally()
        for kept in (self.latest, self.known, self.counted, self.told):
            kept.clear()

    def _read_errors(self) -> None:
        """Take in what the latest shards say of inputs that ended badly; one file of rows at most."""
        for commit in reversed(self.latest):
            if bad(commit.counts) and commit.shard not in self.told:
                self.told.add(commit.shard)
                with suppress(StoreError):
                    self.errors.extend(_errors(self.store, commit))
                return


def show_top(
    target: str, options: StoreOptions, *, every: float, once: bool, console: Console | None = None
) -> None:
    """Show a job until it is complete, or once. Raises JobError, StoreError."""
    console = console or Console()
    store = open_target(target, options)
    if standing_job(Ledger(store)) is None and (training := train_status.look(store)) is not None:
        _show_training(store, training, console, every=every, once=once)
        return
    seen = Seen.of(store)
    seen.look()
    if once or not console.is_terminal:
        console.print(page(seen))
        return
    with (
        Live(page(seen), console=console, refresh_per_second=4, transient=False) as live,
        suppress(KeyboardInterrupt),
    ):
        while not seen.complete:
            time.sleep(every)
            with suppress(StoreError):  # the page stays as it was
                seen.look()
            live.update(page(seen))


def _show_training(
    store: Store, seen: train_status.TrainingLook, console: Console, *, every: float, once: bool
) -> None:
    """A training until it is complete, or once."""
    if once or not console.is_terminal:
        console.print(train_status.page(seen))
        return
    with Live(train_status.page(seen), console=console) as live, suppress(KeyboardInterrupt):
        while seen.state != "complete":
            time.sleep(every)
            with suppress(StoreError):  # the page stays as it was
                seen = train_status.look(store) or seen
            live.update(train_status.page(seen))


def page(seen: Seen) -> RenderableType:
    """All of it."""
    parts: list[RenderableType] = [_overview(seen)]
    if stages := _stages(seen):
        parts.append(stages)
    if seen.signs:
        parts.append(_workers(seen))
    parts += [f"[red]{escape(one_line(line))}[/]" for line in seen.errors]
    return Group(*parts)


def _overview(seen: Seen) -> Table:
    tally = seen.tally
    done = tally.images + sum(shard.done for sign in seen.alive for shard in sign.shards)
    rate = sum(seen.rate(sign) for sign in seen.alive)
    left = f", {duration((seen.images - done) / rate)} left" if rate and done < seen.images else ""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]job[/]", f"{escape(seen.name)}, {tally.shards:,} of {many(seen.shards, 'shard')}")
    share = f"{min(1.0, done / seen.images):.1%}" if seen.images else "not planned yet"
    table.add_row("images", f"{done:,} of {seen.images:,}, {share}; {rate:.1f} images/s{left}")
    waiting = seen.shards - tally.shards - sum(len(sign.shards) for sign in seen.alive)
    table.add_row("queue", f"{many(max(0, waiting), 'shard')} waiting, {many(len(seen.alive), 'worker')}")
    table.add_row("instances", f"{tally.instances:,}")
    failed = ", ".join(f"{n:,} {escape(s)}" for s, n in tally.statuses.most_common() if s not in GOOD and n)
    table.add_row("errors", f"[red]{failed}[/]" if failed else "none")
    return table


def _stages(seen: Seen) -> Table | None:
    """Where the latest shards' time went: a stage's seconds over all threads, for an image."""
    seconds, images = Counter[str](), 0
    for commit in seen.latest:
        seconds.update(commit.work.seconds)
        images += sum(commit.counts.values())
    if not images:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("ms an image")
    shown = [(stage, spent) for stage, spent in seconds.items() if spent / images >= 5e-5]
    for stage, _ in shown:
        table.add_column(stage, justify="right")
    table.add_row(
        "last shard" if len(seen.latest) == 1 else f"last {len(seen.latest):,} shards",
        *(f"{spent / images * 1000:.1f}" for _, spent in shown),
    )
    return table


def _workers(seen: Seen) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("worker", "images/s", "images", "model busy", "in work", "at"):
        table.add_column(heading, overflow="fold")
    for sign in sorted(seen.signs, key=lambda sign: sign.worker):
        table.add_row(*_worker(seen, sign))
    return table


def _worker(seen: Seen, sign: WorkerSign) -> Iterator[str]:
    age = time.time() - sign.time
    busy = seen.tally.workers.get(sign.worker)
    yield escape(sign.worker) + (f" [yellow]silent for {duration(age)}[/]" if age > SILENT_SECONDS else "")
    yield f"{seen.rate(sign):.1f}"
    yield f"{sign.images:,}"
    yield f"{busy.share:.0%}" if busy else ""
    yield "\n".join(_work(seen, shard, sign.time) for shard in sign.shards)
    yield "\n".join(escape(shard.doing) for shard in sign.shards)


def _work(seen: Seen, shard: ShardSign, said: float) -> str:
    """A shard in work, marked when it stands still or takes much longer than others do."""
    took, usual = said - shard.since, seen.usual
    words = escape(f"{shard.shard} {shard.done:,}/{shard.images:,} for {duration(took)}")
    if said - shard.step_since > PATIENCE:
        return f"{words} [red]stands still[/]"
    if usual is not None and took > max(STRAGGLER * usual, 10.0):
        return f"{words} [yellow]straggler[/]"
    return words


def _errors(store: Store, commit: Commit) -> Iterator[str]:
    rows = committed_images(store, commit).select(["image_id", "status", "error"]).to_pylist()
    for row in [row for row in rows if row["status"] not in GOOD][-ERRORS:]:
        yield f"{row['image_id']}: {row['status']}, {row['error'] or 'no reason given'}"
