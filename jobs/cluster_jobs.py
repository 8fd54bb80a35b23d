"""A cluster's job server, spoken to over HTTP; nothing of the cluster runs in this process."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import requires
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobs.errors import ExitCode, JobError, Refused

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where a job server's address is looked for when none is given."""
UPLOADS = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Ray's loggers that tell of each spec that is sent."""
SOME = 0.001
"""How much Ray asks of an accelerator's type, which each node of it has 1 of."""
STARTING = 60.0
"""Seconds that a head which has just started gets until it takes jobs."""


class ClusterError(JobError):
    """A job server that cannot be reached, turns us away, or answers what makes no sense."""

    code = ExitCode.STORE


class NoSuchJob(JobError):
    """The cluster knows no job of that name."""


@dataclass(frozen=True)
class DriverNeeds:
    """What a job's own process needs, where that does the work."""

    cpus: int
    gpus: float = 0
    memory: int = 0
    """Bytes; 0 for whatever there is."""
    accelerator: str | None = None
    """Type of its GPU, as Ray names it."""

    def entrypoint(self) -> dict[str, Any]:
        """The same as `submit_job` takes it."""
        wanted = {f"accelerator_type:{self.accelerator}": SOME} if self.accelerator else None
        return {
            "entrypoint_num_cpus": self.cpus,
            "entrypoint_num_gpus": self.gpus,
            "entrypoint_memory": self.memory or None,
            "entrypoint_resources": wanted,
        }


class JobServer:
    """The jobs of one Ray cluster."""

    def __init__(self, address: str | None = None) -> None:
        """`address` as in `http://head:8265`; else the environment names it.

        Raises JobError for an address that is none, ClusterError when nothing usable answers there, Refused
        when its Ray is of a version that this project was not made for.
        """
        self.address = _address(address)
        # Ray prefers these variables to the address it is given, and we prefer what the user typed.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        with self.telling():
            from ray.job_submission import JobSubmissionClient

            for told_by in UPLOADS:
                logging.getLogger(told_by).setLevel(logging.WARNING)
            self.client: JobSubmissionClient = JobSubmissionClient(self.address)
            self.ray_version = str(self.client.get_version())
        _check_ray(self.address, _running_ray(self.client) or self.ray_version)

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: dict[str, object],
        metadata: dict[str, str],
        driver: DriverNeeds | None = None,
    ) -> bool:
        """Start a job under an id; False when another job has it: ids are given once.

        `driver` is what its own process needs; None lets it start on the head. Raises ClusterError.
        """
        deadline = time.monotonic() + STARTING
        while True:
            with self.telling():
                try:
                    self.client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=submission_id,
                        runtime_env=runtime_env,
                        metadata=metadata,
                        **(driver.entrypoint() if driver else {}),
                    )
                    return True
                except RuntimeError as error:
                    if "already exists" in str(error):
                        return False
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise
            time.sleep(1.0)

    def find(self, submission_id: str) -> JobDetails | None:
        """What the cluster knows of a job; None when it knows none of that id. Raises ClusterError."""
        with self.telling():
            try:
                return self.client.get_job_info(submission_id)
            except RuntimeError as error:
                if "does not exist" in str(error):
                    return None
                raise

    def get(self, submission_id: str) -> JobDetails:
        """The same; raises NoSuchJob."""
        found = self.find(submission_id)
        if found is None:
            raise NoSuchJob(
                f"{self.address} knows no job {submission_id}; `condinst jobs list` shows what it knows"
            )
        return found

    def all(self) -> list[JobDetails]:
        """Every submitted job, oldest first. Raises ClusterError."""
        with self.telling():
            found = [job for job in self.client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end; whether it was running. Raises ClusterError."""
        with self.telling():
            return bool(self.client.stop_job(submission_id))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what Ray's client raises into words of ours."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise ClusterError(
                f"{self.address} turns us away: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH, to the cluster's token"
            ) from None
        except (ConnectionError, requests.RequestException):
            raise ClusterError(
                f"{self.address} cannot be reached: is it the address of the head's job server (port 8265 "
                "unless told otherwise), and is it open from here?"
            ) from None
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            raise ClusterError(f"{self.address}: {first}") from None


def _address(given: str | None) -> str:
    address = given or next(filter(None, map(os.environ.get, ADDRESS_VARIABLES)), None)
    if not address:
        raise JobError(
            "--address: missing; give the cluster's job server, such as http://head:8265, or set "
            f"{ADDRESS_VARIABLES[0]}"
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise JobError(f"--address: {address!r} is no address of a job server, such as http://head:8265")
    if "@" in parts.netloc:
        raise JobError("--address: holds credentials; a cluster's token goes into RAY_AUTH_TOKEN")
    return address.rstrip("/")


def _running_ray(client: JobSubmissionClient) -> str | None:
    """The version of the Ray that runs there: the other one is that of its job API."""
    answer = client._do_request("GET", "/api/version")
    return str(answer.json().get("ray_version") or "") or None if answer.status_code == 200 else None


def _check_ray(address: str, running: str) -> None:
    """Raise Refused unless the cluster's Ray is one that this project says it works with."""
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version

    wanted = next(r for r in map(Requirement, requires("condinst") or ()) if r.name == "ray")
    try:
        fits = Version(running) in wanted.specifier
    except InvalidVersion:
        return  # a build of one's own
    if not fits:
        raise Refused(f"{address} runs Ray {running}, and this project needs {wanted.specifier}")


def last_attempt(submission_id: str, known: list[str]) -> int:
    """The highest attempt of a submission among the ids that a cluster knows; 0 when there is none."""
    pattern = re.compile(re.escape(submission_id) + r"(?:-([0-9]{1,6}))?")
    attempts = [int(found[1] or 1) for found in map(pattern.fullmatch, known) if found]
    return max(attempts, default=0)


def earlier_attempts(submission_id: str, known: list[str]) -> list[str]:
    """Of the ids that a cluster knows, the attempts before this one of its submission, oldest first."""
    base, _, number = submission_id.rpartition("-")
    if base not in known or not re.fullmatch("[0-9]{1,6}", number):
        return []
    return [found for n in range(1, int(number)) if (found := attempt_id(base, n)) in set(known)]


def attempt_id(submission_id: str, attempt: int) -> str:
    """The id of a submission's first, second, ... attempt."""
    return submission_id if attempt == 1 else f"{submission_id}-{attempt}"
