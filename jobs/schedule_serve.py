"""`condinst schedule serve`: the scheduler with a clock, in one process; and `schedule list`."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.check import load_whole
from jobs.cron import parse_cron
from jobs.cron_times import next_fire
from jobs.errors import JobError, Problem, Refused, SpecError, one_line
from jobs.extending import files_of
from jobs.progress import duration
from jobs.schedule import Entry, Runner, Scheduler
from jobs.schedule_runners import ClusterRunner, LocalRunner
from jobs.schedule_state import Run, Schedule, ScheduleState

Serve = Callable[[Sequence[Entry], datetime], None]
LOOK_SECONDS = 5.0
"""Between two looks at the runs and the specs' files."""


def serve(specs: Sequence[Path], state_file: Path, address: str | None, catch_up: timedelta) -> None:
    """Run specs on their schedules until a signal ends this process; the runs that are at work go on.

    Raises SpecError or JobError for specs that cannot be served, Refused when another scheduler serves the
    same state, ClusterError.
    """
    console = Console(highlight=False, soft_wrap=True)
    files, entries = _Files(specs), read_entries(specs)
    with _alone(state_file):
        state = ScheduleState(state_file)
        runner: Runner = ClusterRunner(state, address) if address else LocalRunner(state)

        def tell(line: str) -> None:
            console.print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {escape(one_line(line))}")

        scheduler = Scheduler(state, runner, catch_up=catch_up, tell=tell)
        scheduler.serve(entries, datetime.now(UTC))
        for entry in entries:
            tell(_outlook(entry))
        _Clock(scheduler, lambda: files.look(scheduler.serve, tell)).run()
        tell("stopped; runs that are at work go on")
        state.close()


def read_entries(specs: Sequence[Path]) -> list[Entry]:
    """The schedules of spec files. Raises SpecError with all that is wrong in any, JobError."""
    problems: list[Problem] = []
    entries: list[Entry] = []
    for path in specs:
        try:
            entries.append(_entry(path))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    for entry in entries:
        if twin := next((e for e in entries if e.name == entry.name and e is not entry), None):
            raise JobError(
                f"{entry.path} and {twin.path} are both named {entry.name}; give each its own name"
            )
    return entries


def list_schedules(state_file: Path, *, runs: int, as_json: bool) -> None:
    """Print each schedule's next moment and its last runs. Raises JobError where nothing was ever served."""
    if not state_file.is_file():
        raise JobError(f"{state_file} is not there: no scheduler has served with it yet (--state names it)")
    state, now = ScheduleState(state_file), datetime.now(UTC)
    found = [(known, _next(known, now), state.runs(known.name, last=runs)) for known in state.schedules()]
    if as_json:
        listed = [
            {**asdict(known), "next": moment, "runs": [asdict(run) for run in past]}
            for known, moment, past in found
        ]
        print(json.dumps(listed, indent=2, default=lambda value: value.isoformat()))
        return
    console = Console(highlight=False)
    console.print(_schedules(found))
    console.print(_runs([run for _, _, past in found for run in past]))


class _Clock(BaseTrigger):  # type: ignore[misc]
    """Ticks every few seconds and at each moment that is due, until SIGINT or SIGTERM."""

    def __init__(self, scheduler: Scheduler, look: Callable[[], None]) -> None:
        self._scheduler, self._look = scheduler, look
        self._process = BlockingScheduler(timezone=UTC, executors={"default": ThreadPoolExecutor(1)})
        self._process.add_job(
            self._tick, self, next_run_time=datetime.now(UTC), misfire_grace_time=None, coalesce=True
        )

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """When to tick next, as APScheduler asks it."""
        soon = now + timedelta(seconds=LOOK_SECONDS)
        return min(self._scheduler.next_fire(now) or soon, soon)

    def run(self) -> None:
        """Tick until a signal comes."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        self._process.start()

    def _tick(self) -> None:
        self._look()
        self._scheduler.tick(datetime.now(UTC))

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._process.shutdown(wait=False)


class _Files:
    """Sees when a spec's file, or one that it extends, changes.

    Specs of which one does not hold are told of, and the last good ones stay.
    """

    def __init__(self, specs: Sequence[Path]) -> None:
        self._specs = specs
        self._times = self._all_times()

    def look(self, serve: Serve, tell: Callable[[str], None]) -> None:
        """Take over what has changed."""
        if all(_changed_at(path) == time for path, time in self._times.items()):
            return
        # Before they are read: a change in between is seen the next time.
        self._times = self._all_times()
        try:
            entries = read_entries(self._specs)
        except JobError as error:
            tell(f"the specs are served as they were before: {error}")
            return
        serve(entries, datetime.now(UTC))
        for entry in entries:
            tell(_outlook(entry))

    def _all_times(self) -> dict[Path, int]:
        return {path: _changed_at(path) for spec in self._specs for path in files_of(spec)}


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@contextmanager
def _alone(state_file: Path) -> Iterator[None]:
    """Hold the state's lock: two schedulers would each start a run."""
    state_file.parent.mkdir(parents=True, exist_ok=True)
    with state_file.with_name(state_file.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another scheduler serves {state_file}; give --state for one of its own") from None
        yield


def _entry(path: Path) -> Entry:
    spec, text = load_whole(path)
    if spec.schedule is None:
        raise JobError(f'{path} has no schedule; add `schedule: {{cron: "30 2 * * *"}}`')
    when = spec.schedule
    place = Path(os.path.abspath(path))
    return Entry(spec.name, place, when.cron, when.timezone, when.overlap, when.suspend, spec.retries, text)


def _outlook(entry: Entry) -> str:
    if entry.suspend:
        return f"{entry.name}: suspended"
    return f"{entry.name}: next {_local(entry.next(datetime.now(UTC)), entry.timezone)}"


def _next(known: Schedule, now: datetime) -> datetime | None:
    return None if known.suspended else next_fire(parse_cron(known.cron), known.timezone, now)


def _local(moment: datetime, zone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M} {zone}"


def _schedules(found: Sequence[tuple[Schedule, datetime | None, Sequence[Run]]]) -> Table:
    table = _table("schedule", "cron", "next", "overlap", "spec")
    for known, moment, _ in found:
        following = "suspended" if moment is None else _local(moment, known.timezone)
        table.add_row(*map(escape, (known.name, known.cron, following, known.overlap, known.path)))
    return table


def _runs(runs: Sequence[Run]) -> Table:
    table = _table("run of", "due (UTC)", "state", "attempt", "took", "where", "note")
    for run in runs:
        took = duration((run.ended or time.time()) - run.started) if run.started else ""
        state = run.state + (f" ({run.code})" if run.code else "")
        due = f"{run.fire:%Y-%m-%d %H:%M}"
        table.add_row(*map(escape, (run.name, due, state, str(run.attempt), took, run.place, run.note)))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
