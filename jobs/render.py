"""`condinst render`: a spec as Kubernetes objects, ready for `kubectl apply -f -`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from jobs.check import load_job
from jobs.conventions import JobSpec
from jobs.cron import DAY, parse_cron
from jobs.errors import Refused
from jobs.filling import DATE_VARIABLE, Surroundings, escaped, uses_date
from jobs.kube import MOUNT, SPEC_FILE, Job, config_map, dump, head_budget, metadata
from jobs.places import places
from jobs.quantities import seconds
from jobs.render_cluster import cluster_spec, submitter
from jobs.render_cron import cron_job

Target = Literal["kuberay", "cronjob"]
Manifest = dict[str, Any]

STARTING = 1800
"""Seconds that a cluster gets to come up before the job's own `timeout` begins."""
IDLE = 60
"""Seconds that a finished job's cluster stands, so that its last logs are collected."""


@dataclass(frozen=True)
class Rendered:
    """What a spec became."""

    manifests: list[Manifest]
    notes: list[str]
    """What whoever applies them should know."""

    @property
    def text(self) -> str:
        """One YAML stream."""
        return dump(self.manifests)


def render(path: Path, overrides: Sequence[str] = (), target: Target = "kuberay") -> Rendered:
    """Render a spec file. Raises SpecError for one that does not hold, Refused for what a target cannot do.

    `${NAME}` is filled in now, `{{ date }}` when a run starts.
    """
    spec = load_job(path, overrides, Surroundings(keep_date=True))
    job = Job.of(spec)
    if job.resources.accelerator and not job.resources.node_selector:
        raise Refused(
            f"accelerator: which nodes have a GPU {job.resources.accelerator} is for you to say; give their "
            "label as node_selector beside it"
        )
    spec_map = config_map(job, {SPEC_FILE: _portable(spec)})
    rayjob = _rayjob_spec(job, spec_map["metadata"]["name"])
    if target == "cronjob":
        made = cron_job(job, rayjob)
    elif spec.schedule is not None:
        _refuse_what_no_raycronjob_does(spec)
        made = [_ray_cron_job(job, rayjob)]
    else:
        _set_today(spec, rayjob)
        made = [
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata(job, job.name), "spec": rayjob}
        ]
    return Rendered([spec_map, head_budget(job), *made], list(_notes(spec, job)))


def _portable(spec: JobSpec) -> str:
    """The spec as the cluster reads it: its own and its bases' keys in one text, without what is for us."""
    stated = spec.model_dump(mode="json", exclude_unset=True, exclude={"extends", "kubernetes", "retries"})
    # JSON, because each of its texts is in quotes: nothing can be read as a number or a date.
    return json.dumps(escaped(stated), indent=2, ensure_ascii=False) + "\n"


def _rayjob_spec(job: Job, spec_map: str) -> Manifest:
    """A RayJob's spec, which is a RayCronJob's jobTemplate too."""
    spec = job.spec
    rayjob: Manifest = {
        "entrypoint": f"condinst {'run' if spec.kind == 'segment' else 'train'} {MOUNT}/{SPEC_FILE}",
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": IDLE,
        "backoffLimit": spec.retries,
    }
    if spec.timeout is not None:
        rayjob["activeDeadlineSeconds"] = _deadline(spec)
    if job.driver_on_worker:
        # Training is one process: the driver, which Ray puts where its cores and GPUs are.
        rayjob["entrypointNumCpus"] = job.cpus
        if job.gpus:
            rayjob["entrypointNumGpus"] = job.gpus
    rayjob["submitterPodTemplate"] = submitter(job)
    rayjob["rayClusterSpec"] = cluster_spec(job, spec_map)
    return rayjob


def _deadline(spec: JobSpec) -> int:
    """Seconds after which Kubernetes ends a run that has not ended itself, all its tries together."""
    return (seconds(spec.timeout or "") + STARTING) * (spec.retries + 1)


def _ray_cron_job(job: Job, rayjob: Manifest) -> Manifest:
    schedule = job.spec.schedule
    assert schedule is not None
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": metadata(job, job.name),
        "spec": {
            "schedule": parse_cron(schedule.cron).text,
            "timeZone": schedule.timezone,
            "suspend": schedule.suspend,
            "jobTemplate": rayjob,
        },
    }


def _refuse_what_no_raycronjob_does(spec: JobSpec) -> None:
    """A RayCronJob starts each run whatever became of the one before, and tells it no date."""
    schedule = spec.schedule
    assert schedule is not None
    gap = parse_cron(schedule.cron).shortest_gap() * 60
    if schedule.timezone != "UTC":
        gap -= DAY * 60 // 24  # the night when clocks are put forward
    if spec.timeout is None or _deadline(spec) >= gap:
        longest = "has no limit" if spec.timeout is None else f"may take {_deadline(spec) / 3600:.1f} h"
        raise Refused(
            f"schedule.overlap: a RayCronJob begins the next run even if one is still at work, and a run of "
            f"this job {longest}, with retries and {STARTING // 60} minutes to start, while it fires after "
            f"{gap / 3600:.1f} h; set timeout so that it fits, or render with --target cronjob"
        )
    if spec.retries and uses_date(spec.model_dump(mode="json")):
        raise Refused(
            "retries: a RayCronJob does not tell a run which day it is for: a retry after midnight "
            "would write elsewhere; set retries: 0, take {{ date }} out, or render with --target cronjob"
        )


def _set_today(spec: JobSpec, rayjob: Manifest) -> None:
    """A job that is started once gets its day now: a retry after midnight goes on with the same output."""
    if not uses_date(spec.model_dump(mode="json")):
        return
    today = {"name": DATE_VARIABLE, "value": datetime.now(ZoneInfo("UTC")).date().isoformat()}
    head = rayjob["rayClusterSpec"]["headGroupSpec"]
    for group in (head, *rayjob["rayClusterSpec"]["workerGroupSpecs"]):
        group["template"]["spec"]["containers"][0]["env"].append(today)


def _notes(spec: JobSpec, job: Job) -> Iterator[str]:
    if spec.secrets:
        keys = " ".join(f"--from-literal={name}=..." for name in spec.secrets)
        yield f"needs a Secret: kubectl create secret generic {job.secret} {keys}"
    named = set(places(spec.model_dump(mode="json", exclude_unset=True)))
    for path in sorted(n for n in named if "://" not in n or n.startswith("file://")):
        yield f"{path} is a path: each pod must find it in the image or in a volume of its own"
