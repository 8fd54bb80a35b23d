"""What the scheduler remembers, in SQLite: how far each schedule was looked at, and what became of each run.

A run's row is written before anything is started, so a scheduler that dies loses none; how the start is made
to happen once is the business of whoever starts it (`jobs.schedule_runners`).
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from jobs.errors import JobError

State = Literal["due", "queued", "running", "done", "failed", "skipped", "missed"]
OPEN: tuple[State, ...] = ("due", "queued", "running")
VERSION = 1
BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS schedules (
    name TEXT PRIMARY KEY, path TEXT NOT NULL, cron TEXT NOT NULL, timezone TEXT NOT NULL,
    overlap TEXT NOT NULL, suspended INTEGER NOT NULL, seen TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS specs (name TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    name TEXT NOT NULL, fire TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 1,
    place TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '', code INTEGER,
    started REAL, ended REAL, PRIMARY KEY (name, fire)
) STRICT;
"""


@dataclass(frozen=True)
class Schedule:
    """A schedule as it was last served."""

    name: str
    path: str
    """Of its spec."""
    cron: str
    timezone: str
    overlap: str
    suspended: bool
    seen: datetime
    """Every moment up to this one was looked at."""


@dataclass(frozen=True)
class Run:
    """What became of one moment of a schedule."""

    name: str
    fire: datetime
    state: State
    attempt: int = 1
    place: str = ""
    """Where it runs: the file of its log, or a cluster's submission id."""
    note: str = ""
    code: int | None = None
    started: float | None = None
    ended: float | None = None


class ScheduleState:
    """One file of SQLite. Usable by several processes at a time; an object of it by one thread."""

    def __init__(self, path: Path) -> None:
        """Raises JobError when the file is none of ours or cannot be written."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise JobError(f"{path} was written by another version of condinst (its format is {version})")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise JobError(f"--state: {path} cannot be used: {error}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do what is inside at once or, when it raises or the process dies, not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def identity(self) -> str:
        """A random name of this state, the same for ever: it tells two schedulers of one cluster apart."""
        with self.together():
            if (row := self._db.execute("SELECT id FROM identity").fetchone()) is None:
                row = (secrets.token_hex(3),)
                self._db.execute("INSERT INTO identity VALUES (?)", row)
        return str(row[0])

    def schedule(self, name: str) -> Schedule | None:
        """What is known of a schedule."""
        row = self._db.execute("SELECT * FROM schedules WHERE name = ?", (name,)).fetchone()
        return None if row is None else _schedule(row)

    def schedules(self) -> list[Schedule]:
        """All that were ever served, by name."""
        return [_schedule(row) for row in self._db.execute("SELECT * FROM schedules ORDER BY name")]

    def put_schedule(self, schedule: Schedule) -> None:
        """Remember a schedule."""
        row = (schedule.name, schedule.path, schedule.cron, schedule.timezone, schedule.overlap)
        self._db.execute(
            "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, int(schedule.suspended), _text(schedule.seen)),
        )

    def spec(self, name: str) -> str | None:
        """The text of a schedule's spec as it was last good."""
        row = self._db.execute("SELECT text FROM specs WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_spec(self, name: str, text: str) -> None:
        """Remember the text of a schedule's spec, with nothing filled in: what is secret stays outside."""
        self._db.execute("INSERT OR REPLACE INTO specs VALUES (?, ?)", (name, text))

    def add(self, name: str, fire: datetime, state: State, note: str = "") -> None:
        """Note a moment of a schedule, unless it is noted already."""
        self._db.execute(
            "INSERT OR IGNORE INTO runs (name, fire, state, note) VALUES (?, ?, ?, ?)",
            (name, _text(fire), state, note),
        )

    def runs(self, name: str, states: tuple[State, ...] = get_args(State), last: int = -1) -> list[Run]:
        """A schedule's runs in these states, the oldest first; only the `last` so many."""
        marks = ", ".join("?" * len(states))
        rows = self._db.execute(
            f"SELECT * FROM runs WHERE name = ? AND state IN ({marks}) ORDER BY fire DESC LIMIT ?",  # noqa: S608
            (name, *states, last),
        ).fetchall()
        return [_run(row) for row in reversed(rows)]

    def run(self, name: str, fire: datetime) -> Run | None:
        """One run."""
        row = self._db.execute(
            "SELECT * FROM runs WHERE name = ? AND fire = ?", (name, _text(fire))
        ).fetchone()
        return None if row is None else _run(row)

    def started(self, run: Run, place: str) -> None:
        """Note that a run is at work, unless it is another attempt by now."""
        self._db.execute(
            "UPDATE runs SET state = 'running', place = ?, note = '', started = coalesce(started, ?) "
            "WHERE name = ? AND fire = ? AND attempt = ? AND state IN ('due', 'queued', 'running')",
            (place, time.time(), run.name, _text(run.fire), run.attempt),
        )

    def report(self, run: Run, code: int) -> None:
        """Note an attempt's exit code, for the scheduler to see; the first that is reported stays."""
        self._db.execute(
            "UPDATE runs SET code = ?, ended = ? "
            "WHERE name = ? AND fire = ? AND attempt = ? AND code IS NULL AND state IN ('due', 'running')",
            (code, time.time(), run.name, _text(run.fire), run.attempt),
        )

    def ended(self, run: Run, code: int, note: str) -> None:
        """Close a run."""
        self._db.execute(
            "UPDATE runs SET state = ?, code = ?, note = ?, ended = coalesce(ended, ?) "
            "WHERE name = ? AND fire = ?",
            ("failed" if code else "done", code, note, time.time(), run.name, _text(run.fire)),
        )

    def again(self, run: Run, note: str) -> None:
        """Make an attempt that ended badly due once more."""
        self._db.execute(
            "UPDATE runs SET state = 'due', attempt = attempt + 1, code = NULL, ended = NULL, note = ? "
            "WHERE name = ? AND fire = ? AND attempt = ?",
            (note, run.name, _text(run.fire), run.attempt),
        )

    def set(self, run: Run, state: State, note: str) -> None:
        """Put a run that is not at work into another state."""
        self._db.execute(
            "UPDATE runs SET state = ?, note = ? WHERE name = ? AND fire = ? AND state IN ('due', 'queued')",
            (state, note, run.name, _text(run.fire)),
        )


def moment_text(moment: datetime) -> str:
    """A moment as it stands in ids and names of files: `20261025T003000Z`."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def run_file(state: Path, run: Run, ending: str) -> Path:
    """A file of a local run, beside those of the others: its log, its lock, its spec."""
    return state.with_name(state.name + ".runs") / f"{run.name}-{moment_text(run.fire)}{ending}"


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _schedule(row: tuple[object, ...]) -> Schedule:
    name, path, cron, zone, overlap, suspended, seen = row
    since = datetime.fromisoformat(str(seen))
    return Schedule(str(name), str(path), str(cron), str(zone), str(overlap), bool(suspended), since)


def _run(row: tuple[object, ...]) -> Run:
    name, fire, *others = row
    return Run(str(name), datetime.fromisoformat(str(fire)), *others)  # type: ignore[arg-type]
