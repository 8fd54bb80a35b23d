"""What `condinst submit` and `condinst jobs` print and wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.check import load_job
from jobs.cluster_jobs import JobServer, NoSuchJob, attempt_id, earlier_attempts, last_attempt
from jobs.conventions import JobSpec
from jobs.errors import ExitCode, Interrupted, JobError
from jobs.follow import follow, print_log
from jobs.progress import duration
from jobs.submit import STOP_SECONDS, Submission, submit
from jobs.target import is_spec

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

LOOK_SECONDS = 0.5


def submit_and_follow(spec: JobSpec, address: str | None, *, detach: bool, again: bool) -> None:
    """Submit a spec and, unless told otherwise, show its log until it ends.

    Raises Ended with the job's exit code when it ends other than well, ClusterError, Interrupted on Ctrl-C.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    server, submission = JobServer(address), Submission.of(spec)
    if local := submission.local_places():
        console.print(f"every node must see {escape(', '.join(local))}", style="yellow")
    submitted = submit(server, submission, again=again)
    said = {
        "started": "submitted",
        "running": "is at work already: nothing was started",
        "done": "is done already: nothing was started (--again starts it)",
    }
    console.print(f"{escape(submitted.id)} {said[submitted.how]}")
    if submitted.how != "done" and not detach:
        _follow(server, submitted.id)


def list_jobs(address: str | None) -> None:
    """Print the jobs of a cluster, oldest first. Raises ClusterError."""
    server = JobServer(address)
    Console().print(_table(server.all()))


def show_job(job: str, address: str | None, overrides: Sequence[str] = ()) -> None:
    """Print a job and the attempts before it, oldest first. Raises NoSuchJob, ClusterError."""
    server = JobServer(address)
    found = server.get(_named(server, job, overrides))
    known = {str(other.submission_id): other for other in server.all()}
    earlier = [known[name] for name in earlier_attempts(str(found.submission_id), list(known))]
    Console().print(_table([*earlier, found]))
    output = (found.metadata or {}).get("output")
    if found.message:
        Console().print(escape(found.message.strip().partition("\n")[0]), highlight=False, soft_wrap=True)
    if output:
        Console().print(f"condinst status {escape(output)}", highlight=False, soft_wrap=True)


def show_log(job: str, address: str | None, overrides: Sequence[str] = (), *, follow_it: bool) -> None:
    """Print a job's log, up to now or to its end. Raises NoSuchJob, ClusterError, Ended, Interrupted."""
    server = JobServer(address)
    submission_id = _named(server, job, overrides)
    if follow_it:
        _follow(server, submission_id)
    else:
        print_log(server, submission_id)


def cancel_submitted(job: str, address: str | None, overrides: Sequence[str] = ()) -> None:
    """Stop a job and wait until it has ended. Raises NoSuchJob, ClusterError."""
    console, server = Console(highlight=False, soft_wrap=True), JobServer(address)
    submission_id = _named(server, job, overrides)
    if server.get(submission_id).status.is_terminal():
        console.print(f"{escape(submission_id)} has ended already")
        return
    server.stop(submission_id)
    deadline = time.monotonic() + STOP_SECONDS + 15
    while not (found := server.get(submission_id)).status.is_terminal() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    ended = "stopped" if found.status.is_terminal() else "was told to stop and has not yet"
    console.print(f"{escape(submission_id)} {ended}; what is committed stays, submit it again to go on")


def _follow(server: JobServer, submission_id: str) -> None:
    try:
        follow(server, submission_id)
    except KeyboardInterrupt:
        raise Interrupted(
            f"the job goes on: `condinst jobs logs {submission_id} --follow`, `condinst jobs cancel "
            f"{submission_id}`",
            ExitCode.INTERRUPTED,
        ) from None


def _named(server: JobServer, job: str, overrides: Sequence[str]) -> str:
    """The id that is meant: a spec file, changed as it was submitted, means its submission's last attempt."""
    if not is_spec(job):
        if overrides:
            raise JobError(f"--set changes a spec, and {job} is no spec file here: leave it out, or name one")
        return job
    base = Submission.of(load_job(Path(job), overrides)).id
    last = last_attempt(base, [str(known.submission_id) for known in server.all()])
    if not last:
        changed = "".join(f" --set {argument.partition('=')[0]}" for argument in overrides)
        raise NoSuchJob(
            f"{server.address} knows no submission of {job}{changed} as it is now ({base}); give each --set "
            "that it was submitted with, or its id: `condinst jobs list` shows what it knows"
        )
    return attempt_id(base, last)


def _table(jobs: list[JobDetails]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("job", "status", "started", "took", "output"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        began, ended = (job.start_time or 0) / 1000, (job.end_time or time.time() * 1000) / 1000
        table.add_row(
            escape(str(job.submission_id)),
            job.status.value.lower(),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)),
            duration(max(0.0, ended - began)),
            escape((job.metadata or {}).get("output", "")),
        )
    return table
