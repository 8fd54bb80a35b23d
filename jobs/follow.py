"""A cluster's job, followed: its log as it is written, and how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from jobs.cluster_jobs import ClusterError, JobServer
from jobs.errors import ExitCode, JobError, one_line

TRIES = 5
"""Times that a log that broke off is asked for again before the cluster is said to be gone."""
PAUSE = 1.0
"""Seconds between two tries, and between two looks at a job that is about to end."""


class Ended(JobError):
    """A cluster's job that ended other than well."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def follow(server: JobServer, submission_id: str, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write a job's log as it grows, and return when the job is done.

    Raises Ended with the job's own exit code when it ended otherwise, ClusterError when the cluster is gone.
    """
    shown, failures = 0, 0
    while True:
        try:
            shown = asyncio.run(_tail(server, submission_id, shown, write))
        except _BrokenOff as broken:
            failures = failures + 1 if broken.shown == shown else 1
            shown = broken.shown
        if server.get(submission_id).status.is_terminal():
            break
        if failures > TRIES:
            raise ClusterError(
                f"{server.address} breaks the log off; the job goes on: `condinst jobs logs {submission_id}`"
            )
        time.sleep(PAUSE)
    write(_log(server, submission_id)[shown:])
    raise_ending(server, submission_id)


def print_log(
    server: JobServer, submission_id: str, write: Callable[[str], object] = sys.stdout.write
) -> None:
    """Write what a job has logged so far. Raises NoSuchJob, ClusterError."""
    server.get(submission_id)
    write(_log(server, submission_id))


def raise_ending(server: JobServer, submission_id: str) -> None:
    """Return when a job that has ended did so well, else raise Ended."""
    job = server.get(submission_id)
    if job.status.value == "SUCCEEDED":
        return
    if job.status.value == "STOPPED":
        raise Ended(
            f"{submission_id} was stopped; what is committed stays, submit it again to go on",
            ExitCode.CANCELLED,
        )
    try:
        code = ExitCode(job.driver_exit_code or ExitCode.BUG)
    except ValueError:
        code = ExitCode.INCOMPLETE  # killed: by a signal, for memory, with its node
    said = one_line((job.message or "no reason given").strip().partition("\n")[0])
    raise Ended(f"{submission_id} ended with {job.driver_exit_code}: {said}; submit it again to go on", code)


class _BrokenOff(Exception):
    """The log ended before the job did."""

    def __init__(self, shown: int) -> None:
        self.shown = shown


async def _tail(server: JobServer, submission_id: str, shown: int, write: Callable[[str], object]) -> int:
    """Write the log from its `shown`th character on; returns how much is written by then."""
    import aiohttp

    passed = 0
    try:
        async for lines in server.client.tail_job_logs(submission_id):
            passed += len(lines)
            if passed > shown:
                write(lines[max(0, len(lines) - (passed - shown)) :])
                shown = passed
    except (RuntimeError, OSError, aiohttp.ClientError):
        raise _BrokenOff(shown) from None
    return shown


def _log(server: JobServer, submission_id: str) -> str:
    with server.telling():
        return str(server.client.get_job_logs(submission_id))
