"""Which runs of which schedules are due, begun, left out: the scheduler without its clock and its processes.

The rules: of the moments that were missed while nobody served, the last is made up for unless it is older
than `catch_up`, the others are noted as missed. A run whose time comes while the one before is at work is
left out (`overlap: skip`) or begun when that one has ended (`queue`; of several that wait, only the last).
After a bad end it is begun again as often as `retries` says, at least three times when it died without one.
Of a suspended schedule nothing is begun: what waits, and what is to be tried again, stays due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from jobs.cron import parse_cron
from jobs.cron_times import fires, next_fire
from jobs.errors import ExitCode, JobError
from jobs.schedule_state import OPEN, Run, Schedule, ScheduleState

ON_TIME = timedelta(minutes=1)
"""A moment that is seen so late is not missed."""
DEATHS = 3
"""How often a run that ended without saying so is begun anew, at least."""
FINAL = (
    *(ExitCode.BAD_SPEC, ExitCode.REFUSED, ExitCode.DAMAGED, ExitCode.TOO_MANY_FAILED),
    *(ExitCode.CANCELLED, ExitCode.LIMIT),
)
"""Ends that another attempt would meet again, or that were wanted."""


@dataclass(frozen=True)
class Entry:
    """A spec on a schedule."""

    name: str
    path: Path
    cron: str
    timezone: str
    overlap: str = "skip"
    suspend: bool = False
    retries: int = 0
    text: str = ""
    """The spec with its bases laid in and nothing filled in: what is run, whatever becomes of the file."""

    def next(self, after: datetime) -> datetime:
        """Its first moment after another."""
        return next_fire(parse_cron(self.cron), self.timezone, after)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; `code` is None for one that died."""

    code: int | None
    note: str = ""


class Runner(Protocol):
    """Starts runs somewhere and sees how they are."""

    def start(self, entry: Entry, run: Run) -> str:
        """Have this attempt run, once however often this is called; returns where.

        Raises JobError when it cannot now: it is called again.
        """
        ...

    def look(self, run: Run) -> Outcome | None:
        """How an attempt ended; None while it is at work, or where that cannot be seen now."""
        ...


class Scheduler:
    """Holds the rules; `tick` is called every few seconds, and at each moment that is due."""

    def __init__(
        self,
        state: ScheduleState,
        runner: Runner,
        *,
        catch_up: timedelta = timedelta(days=1),
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._state, self._runner, self._catch_up, self._tell = state, runner, catch_up, tell
        self.entries: dict[str, Entry] = {}

    def serve(self, entries: Iterable[Entry], now: datetime) -> None:
        """Take over these schedules. One that is new, changed or was suspended has missed nothing."""
        self.entries = {entry.name: entry for entry in entries}
        with self._state.together():
            for entry in self.entries.values():
                known = self._state.schedule(entry.name)
                schedule = Schedule(
                    entry.name,
                    str(entry.path),
                    entry.cron,
                    entry.timezone,
                    entry.overlap,
                    entry.suspend,
                    now if known is None or _changed(known, entry) else known.seen,
                )
                self._state.put_schedule(schedule)
                self._state.put_spec(entry.name, entry.text)

    def tick(self, now: datetime) -> None:
        """Note what is due, see what has ended, begin what may begin."""
        for entry in self.entries.values():
            self._note_due(entry, now)
            self._note_ended(entry)
            if not entry.suspend:
                self._begin(entry)

    def next_fire(self, now: datetime) -> datetime | None:
        """The first moment of any schedule; None where all are suspended."""
        return min((e.next(now) for e in self.entries.values() if not e.suspend), default=None)

    def _note_due(self, entry: Entry, now: datetime) -> None:
        known = self._state.schedule(entry.name)
        if known is None or entry.suspend:
            return
        due = list(fires(parse_cron(entry.cron), entry.timezone, known.seen, now))
        if not due:
            return
        *missed, last = due
        with self._state.together():
            for moment in missed:
                self._state.add(entry.name, moment, "missed", "nobody served it; a later one stands for it")
            if now - last > max(self._catch_up, ON_TIME):
                self._state.add(entry.name, last, "missed", "nobody served it in time")
            else:
                self._state.add(entry.name, last, "due")
            self._state.put_schedule(replace(known, seen=last))
        self._tell(f"{entry.name} is due ({last:%Y-%m-%d %H:%M} UTC)")

    def _note_ended(self, entry: Entry) -> None:
        for run in self._state.runs(entry.name, OPEN):
            outcome = Outcome(run.code) if run.code is not None else None
            if outcome is None and run.state == "running":
                outcome = self._runner.look(run)
            if outcome is not None:
                self._close(entry, run, outcome)

    def _close(self, entry: Entry, run: Run, outcome: Outcome) -> None:
        """Close a run, or have it begun again."""
        code = ExitCode.INCOMPLETE if outcome.code is None else outcome.code
        limit = max(entry.retries, DEATHS) if outcome.code is None else entry.retries
        said = outcome.note or ("it died" if outcome.code is None else f"it ended with {code}")
        if code == ExitCode.DONE or code in FINAL or run.attempt > limit:
            self._state.ended(run, code, said if code else "")
            self._tell(f"{entry.name}: {said if code else 'done'}")
        else:
            self._state.again(run, f"attempt {run.attempt}: {said}")
            when = " once it is not suspended any more" if entry.suspend else ""
            self._tell(f"{entry.name}: attempt {run.attempt}: {said}; it is begun again{when}")

    def _begin(self, entry: Entry) -> None:
        """Begin the first that waits, and put off those that came due behind it."""
        busy = bool(self._state.runs(entry.name, ("running",)))
        for run in self._state.runs(entry.name, ("due", "queued")):
            if not busy:
                self._start(entry, run)
                busy = True
            elif run.state == "due":
                self._put_off(entry, run)

    def _put_off(self, entry: Entry, run: Run) -> None:
        with self._state.together():
            if entry.overlap == "skip":
                self._state.set(run, "skipped", "the run before had not ended")
                return
            for older in self._state.runs(entry.name, ("queued",)):
                self._state.set(older, "skipped", "a later one stands for it")
            self._state.set(run, "queued", "the run before has not ended")

    def _start(self, entry: Entry, run: Run) -> None:
        try:
            place = self._runner.start(entry, run)
        except JobError as error:
            if run.note != str(error):
                self._state.set(run, run.state, str(error))
                self._tell(f"{entry.name} cannot be begun now: {error}")
            return
        self._state.started(run, place)
        self._tell(f"{entry.name} began: {place}")


def _changed(known: Schedule, entry: Entry) -> bool:
    return known.suspended or (known.cron, known.timezone) != (entry.cron, entry.timezone)
