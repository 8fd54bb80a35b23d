"""A plain CronJob whose pod creates the RayJob and waits for it, so that Kubernetes keeps runs apart."""

from __future__ import annotations

import json
from typing import Any

from jobs.cron import parse_cron
from jobs.errors import Refused
from jobs.kube import MOUNT, Job, config_map, container_security, labels, metadata, pod_security

Manifest = dict[str, Any]

RAYJOB_FILE = "rayjob.json"
TOO_LATE = 300
"""Seconds after which a run that could not start in time is left out, under `overlap: skip`."""
HISTORY = 5
"""Ended runs that stay to be looked at, good and bad ones each."""
FAILED = 3
"""Exit code of the creator when the RayJob failed: nothing that creating it again would mend."""


def cron_job(job: Job, rayjob: Manifest) -> list[Manifest]:
    """The objects of a scheduled job. Raises Refused where the spec has no schedule."""
    schedule = job.spec.schedule
    if schedule is None:
        raise Refused("schedule: the spec has none, and a CronJob needs one; render with --target kuberay")
    template = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"labels": labels(job)},
        "spec": rayjob,
    }
    files = config_map(job, {RAYJOB_FILE: json.dumps(template, indent=1) + "\n"}, "rayjob")
    account = f"{job.name}-creator"
    spec: Manifest = {
        "schedule": parse_cron(schedule.cron).text,
        "timeZone": schedule.timezone,
        # The pod lives as long as its RayJob: a run whose time comes meanwhile waits or is left out.
        "concurrencyPolicy": "Forbid",
        "suspend": schedule.suspend,
        "successfulJobsHistoryLimit": HISTORY,
        "failedJobsHistoryLimit": HISTORY,
        "jobTemplate": _job(job, files["metadata"]["name"], account),
    }
    if schedule.overlap == "skip":
        spec["startingDeadlineSeconds"] = TOO_LATE
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(job, job.name), "spec": spec}
    return [files, *_rights(job, account), cron]


def _job(job: Job, files: str, account: str) -> Manifest:
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": account,
        "securityContext": pod_security(),
        "containers": [_creator(job)],
        "volumes": [{"name": "rayjob", "configMap": {"name": files}}],
    }
    fail = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "create", "operator": "In", "values": [FAILED]},
    }
    return {
        "metadata": {"labels": labels(job)},
        "spec": {
            # A creator that was evicted begins again, finds its RayJob, and waits on.
            "backoffLimit": 6,
            "podFailurePolicy": {
                "rules": [
                    fail,
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {"labels": {**labels(job), "condinst/component": "creator"}},
                "spec": pod,
            },
        },
    }


def _creator(job: Job) -> Manifest:
    assert job.spec.schedule is not None
    amounts = {"cpu": "50m", "memory": "128Mi"}
    return {
        "name": "create",
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "python",
            "-m",
            "jobs.create_rayjob",
            f"{MOUNT}/{RAYJOB_FILE}",
            job.spec.schedule.timezone,
        ],
        "env": [
            _field("JOB_NAME", "metadata.labels['batch.kubernetes.io/job-name']"),
            _field("JOB_UID", "metadata.labels['batch.kubernetes.io/controller-uid']"),
            _field("NAMESPACE", "metadata.namespace"),
        ],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "rayjob", "mountPath": MOUNT, "readOnly": True}],
    }


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _rights(job: Job, account: str) -> list[Manifest]:
    """To create RayJobs and look at them, and nothing else."""
    rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    group = "rbac.authorization.k8s.io"
    subject: Manifest = {"kind": "ServiceAccount", "name": account}
    if job.spec.kubernetes.namespace is not None:
        subject["namespace"] = job.spec.kubernetes.namespace
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(job, account)},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata(job, account), "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata(job, account),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": account},
            "subjects": [subject],
        },
    ]
