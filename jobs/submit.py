"""`condinst submit`: a spec becomes a job of a Ray cluster, once, however often it is submitted.

The id of a submission is the job's name and a fingerprint of the whole spec. A cluster gives an id once, so
two submitters at a time start one job. What failed or was stopped is started again as `<id>-2`, `<id>-3`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import yaml

from jobs.cluster_jobs import DriverNeeds, JobServer, attempt_id, last_attempt
from jobs.conventions import JobSpec, ResourcesSection
from jobs.errors import JobError
from jobs.filling import as_meant, escaped
from jobs.places import placed, places
from jobs.quantities import size
from jobs.stopping import GRACE_SECONDS
from jobs.yaml_source import written

COMMANDS = {"segment": "run", "train": "train"}
"""What a cluster runs for each kind of spec."""
SPEC_NAME = "job.yaml"
ATTEMPTS = 1000
STOP_SECONDS = GRACE_SECONDS + 5
"""How long Ray waits between SIGTERM and SIGKILL; its own 3 s would cut off the shards in work."""


@dataclass(frozen=True)
class Submission:
    """A spec on its way to a cluster: places absolute, defaults left out, the same text for the same job."""

    name: str
    kind: str
    output: str
    text: str
    """The spec as YAML, whole: nothing is left to extend or to fill in."""
    driver: DriverNeeds | None = None
    """What the job's own process needs, where that does the work; None where workers do."""

    @classmethod
    def of(cls, spec: JobSpec) -> Submission:
        """What is submitted for a checked spec."""
        document = placed(spec.model_dump(mode="json", exclude_defaults=True, exclude={"extends"}))
        text = written(escaped(document))
        return cls(spec.name, spec.kind, str(document["output"]["uri"]), text, _driver(spec))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that the spec says."""
        return hashlib.sha256(json.dumps(yaml.safe_load(self.text), sort_keys=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The submission id of its first attempt."""
        return f"{self.name}-{self.fingerprint[:12]}"

    @property
    def entrypoint(self) -> str:
        """What the cluster runs. `exec`: the signal that stops the job reaches the run, not a shell."""
        return f"exec condinst {COMMANDS[self.kind]} {SPEC_NAME} --require-version {version('condinst')}"

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps beside the job; no secrets."""
        return {
            "condinst": version("condinst"),
            "name": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "output": self.output,
        }

    def local_places(self) -> list[str]:
        """Paths of files in the spec: every node of the cluster must see them."""
        named = map(as_meant, places(yaml.safe_load(self.text)))
        return sorted({place for place in named if "://" not in place})


@dataclass(frozen=True)
class Submitted:
    """What became of a submission."""

    id: str
    """Of the attempt that counts."""
    how: Literal["started", "running", "done"]
    """Started now, at work already, or done before: then nothing was started."""


def submit(server: JobServer, submission: Submission, *, again: bool = False) -> Submitted:
    """Start a job unless it is at work or done; `again` also starts what is done.

    Raises ClusterError when the cluster cannot be asked; submit again then: it starts nothing twice.
    """
    base = submission.id
    for _ in range(ATTEMPTS):
        last = last_attempt(base, [str(job.submission_id) for job in server.all()])
        if last:
            standing = attempt_id(base, last)
            if (state := _state(server, standing)) == "running" or (state == "done" and not again):
                return Submitted(standing, state)
        fresh = attempt_id(base, last + 1)
        if start(server, submission, fresh):
            return Submitted(fresh, "started")
    raise JobError(f"{base}: {ATTEMPTS} other submitters took the next id first; submit again")


def _state(server: JobServer, submission_id: str) -> Literal["running", "done", "failed"]:
    found = server.find(submission_id)
    if found is None:  # deleted since it was listed
        return "failed"
    if not found.status.is_terminal():
        return "running"
    return "done" if found.status.value == "SUCCEEDED" else "failed"


def start(server: JobServer, submission: Submission, submission_id: str) -> bool:
    """Start a submission under an id; False when a job has it already. Raises ClusterError."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        (Path(folder) / SPEC_NAME).write_text(submission.text)
        runtime_env: dict[str, object] = {
            "working_dir": folder,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
        }
        given = (submission.entrypoint, runtime_env, submission.metadata, submission.driver)
        return server.submit(submission_id, *given)


def _driver(spec: JobSpec) -> DriverNeeds | None:
    """Training without workers is one process: Ray puts it where it has what it needs."""
    own: ResourcesSection | None = getattr(spec, "resources", None)
    if own is None or getattr(spec, "workers", None):
        return None
    gpus = max(own.gpus, getattr(spec, "device", "") == "cuda")
    return DriverNeeds(own.cpus, gpus, size(own.memory) if own.memory else 0, own.accelerator)
