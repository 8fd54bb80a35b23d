"""Where scheduled runs run: as processes of this machine, or as jobs of a Ray cluster; each attempt once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from jobs.check import load_job_text
from jobs.cluster_jobs import ClusterError, JobServer, attempt_id
from jobs.errors import ExitCode
from jobs.filling import DATE_VARIABLE, Surroundings
from jobs.schedule import Entry, Outcome
from jobs.schedule_state import Run, ScheduleState, moment_text, run_file
from jobs.submit import Submission, start


class LocalRunner:
    """Runs `condinst run` and `train` as processes that outlive the scheduler.

    A run's process holds the lock of a file from before it exists until it ends, however it ends. So a
    scheduler that comes back sees whether the run is at work, and never starts a second.
    """

    def __init__(self, state: ScheduleState) -> None:
        self._state = state
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, entry: Entry, run: Run) -> str:
        """See `Runner.start`."""
        log = self._file(run, ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        held = self._lock(run)
        if held is None:
            return str(log)  # an earlier scheduler started it
        try:
            known = self._state.run(run.name, run.fire)
            if known is None or known.attempt != run.attempt or known.code is not None:
                return str(log)  # and it has ended since
            self._spawn(entry, run, log, held)
        finally:
            os.close(held)
        return str(log)

    def look(self, run: Run) -> Outcome | None:
        """See `Runner.look`."""
        self._children = [child for child in self._children if child.poll() is None]
        held = self._lock(run)
        if held is None:
            return None
        os.close(held)
        # The code is noted before the lock goes.
        known = self._state.run(run.name, run.fire)
        return Outcome(None if known is None else known.code)

    def _spawn(self, entry: Entry, run: Run, log: Path, held: int) -> None:
        child = ["-m", "jobs.schedule_child", str(self._state.path.absolute()), run.name]
        arguments = [*child, run.fire.isoformat(), str(run.attempt), str(held)]
        with log.open("ab") as out:
            self._children.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=[held],
                    start_new_session=True,
                    env={**os.environ, DATE_VARIABLE: day_of(entry, run.fire).isoformat()},
                )
            )

    def _lock(self, run: Run) -> int | None:
        """The run's lock, taken; None when its process holds it."""
        held = os.open(self._file(run, ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    def _file(self, run: Run, ending: str) -> Path:
        return run_file(self._state.path, run, ending)


class ClusterRunner:
    """Runs them as jobs of a Ray cluster, whose job server gives each id once."""

    def __init__(self, state: ScheduleState, address: str) -> None:
        """Raises ClusterError, Refused when the cluster cannot be used."""
        self._address, self._server = address, JobServer(address)
        self._identity = state.identity()

    def start(self, entry: Entry, run: Run) -> str:
        """See `Runner.start`. The id holds no fingerprint: an edit of the spec starts no second."""
        base = f"{entry.name}-{moment_text(run.fire)}-{self._identity}"
        submission_id = attempt_id(base, run.attempt)
        source = f"{entry.path}, as it was taken over"
        spec = load_job_text(entry.text, source, Surroundings(day=day_of(entry, run.fire)))
        start(self._server, Submission.of(spec), submission_id)
        return submission_id

    def look(self, run: Run) -> Outcome | None:
        """See `Runner.look`."""
        job = None
        with suppress(ClusterError):
            job = self._server.find(run.place)
            if job is None:
                return Outcome(None, f"{self._address} knows it no more")
        if job is None or not job.status.is_terminal():
            return None
        if job.status.value == "SUCCEEDED":
            return Outcome(ExitCode.DONE)
        if job.status.value == "STOPPED":
            return Outcome(ExitCode.CANCELLED, "it was stopped")
        return Outcome(job.driver_exit_code or None)


def day_of(entry: Entry, fire: datetime) -> date:
    """The date that a run is for: its moment's, by the schedule's clock."""
    return fire.astimezone(ZoneInfo(entry.timezone)).date()
