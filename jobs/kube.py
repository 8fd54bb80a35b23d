"""What every rendered Kubernetes object is made of: names, labels, environment, YAML."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from jobs.conventions import JobSpec, ResourcesSection, WorkersSection
from jobs.spec import SegmentSpec
from jobs.yaml_source import Dumper

Manifest = dict[str, Any]

MOUNT = "/etc/condinst"
SPEC_FILE = "spec.yaml"
LONGEST_NAME = 38
"""A CronJob puts 9 characters behind it, and a RayJob's name may have 47."""
JOB_LABEL = "condinst/job"
USER = 1000
"""Of the image's processes; the Dockerfile has the same."""


@dataclass(frozen=True)
class Job:
    """A spec as its pods see it."""

    spec: JobSpec
    name: str
    """As Kubernetes takes it."""
    resources: ResourcesSection
    cpus: int
    gpus: float
    least: int
    most: int
    """Workers."""
    driver_on_worker: bool = False
    """Whether the job's own process does the work, so that the cluster's head has no part in it."""

    @classmethod
    def of(cls, spec: JobSpec) -> Job:
        """The job of a spec: its workers, or the one process of a training without."""
        if isinstance(spec, SegmentSpec):
            workers: WorkersSection = spec.workers
            return cls(
                spec, kube_name(spec.name), workers, workers.cpus, workers.gpus, workers.least, workers.most
            )
        from jobs.train_spec import TrainSpec

        assert isinstance(spec, TrainSpec)
        own, name = spec.resources, kube_name(spec.name)
        if (many := spec.workers) is not None:
            return cls(spec, name, own, many.cpus, many.gpus, many.least or many.count, many.count)
        gpus = max(1, math.ceil(own.gpus)) if spec.device == "cuda" else 0
        return cls(spec, name, own, max(own.cpus, spec.threads), gpus, 1, 1, driver_on_worker=True)

    @property
    def workers_a_pod(self) -> int:
        """Workers that share a pod: those of one GPU, since a pod gets whole ones."""
        return int(1 / self.gpus + 1e-6) if 0 < self.gpus < 1 else 1

    @property
    def image(self) -> str:
        """The container image."""
        own = f"condinst:{version('condinst')}{'-gpu' if self.gpus else ''}"
        return self.spec.kubernetes.image or own

    @property
    def secret(self) -> str:
        """Name of the Kubernetes Secret that holds the job's secrets."""
        return self.spec.kubernetes.secret or f"{self.name}-secrets"

    def environment(self) -> list[Manifest]:
        """Variables of the job's containers; secrets by reference."""
        own = {
            "HOME": "/tmp",  # noqa: S108 (a volume of the pod, where the root file system is read-only)
            "RAY_USAGE_STATS_ENABLED": "0",
            **self.spec.env,
        }
        return [
            # Kubernetes fills in $(NAME), and reads $$ as $.
            *({"name": name, "value": value.replace("$", "$$")} for name, value in own.items()),
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": self.secret, "key": name}}}
                for name in self.spec.secrets
            ),
        ]


def kube_name(name: str) -> str:
    """A job's name as Kubernetes takes it; one that has to be changed ends with a digest, to stay its own."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"job-{plain}".strip("-")
    if plain != name or len(plain) > LONGEST_NAME:
        plain = f"{plain[: LONGEST_NAME - 7].rstrip('-')}-{digest(name)[:6]}"
    return plain


def metadata(job: Job, name: str) -> Manifest:
    """An object's name, namespace and labels."""
    found: Manifest = {"name": name, "labels": labels(job)}
    if job.spec.kubernetes.namespace is not None:
        found["namespace"] = job.spec.kubernetes.namespace
    return found


def labels(job: Job) -> dict[str, str]:
    """What all of a job's objects and pods carry; `deploy/kuberay` selects by them."""
    return {JOB_LABEL: job.name, "condinst/kind": job.spec.kind}


def config_map(job: Job, files: Mapping[str, str], part: str = "spec") -> Manifest:
    """Files for the pods. Its name changes with them: a run never reads half of an old one."""
    name = f"{job.name}-{part}-{digest(repr(sorted(files.items())))}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, name),
        "immutable": True,
        "data": dict(files),
    }


def head_budget(job: Job) -> Manifest:
    """Keeps maintenance from evicting the pod that the job's driver runs in; workers may go at any time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(job, f"{job.name}-head"),
        "spec": {
            "minAvailable": 1,
            "selector": {"matchLabels": {JOB_LABEL: job.name, "ray.io/node-type": "head"}},
        },
    }


def pod_security() -> Manifest:
    """No root, and the kernel's calls that containers need."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """Nothing to gain, nothing to write but the pod's volumes."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def digest(text: str) -> str:
    """A few characters that another text does not have."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def dump(manifests: Sequence[Manifest]) -> str:
    """Objects as one YAML stream."""
    return yaml.dump_all(
        manifests, Dumper=Dumper, sort_keys=False, explicit_start=True, width=110, allow_unicode=True
    )
