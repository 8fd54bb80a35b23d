"""The Ray cluster of a rendered job: one head that drives, a group of workers that may be taken back."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from jobs.kube import MOUNT, Job, container_security, labels, pod_security
from jobs.quantities import size

Manifest = dict[str, Any]

HEAD_CPUS, HEAD_MEMORY = "2", "4Gi"
SUBMITTER_CPUS, SUBMITTER_MEMORY = "250m", "1Gi"
WORKER_MEMORY = "4Gi"
"""Of each worker, where the spec says nothing: twice what the demo model takes with two shards in work."""
GPU_WORKER_MEMORY = "8Gi"
"""The same with a GPU: CUDA's libraries, and pixels of two shards in work, in pinned memory and before it.

Reckoned, not measured, for inputs of the network of 800 x 1333 pixels: 3 GiB for Python with CUDA, 1 for
batches on their way, pinned in powers of two, 1.5 for images that wait for theirs, the rest for decoding. Of
larger inputs more is pinned: 64 windows of 2048 pixels are 1 GiB a batch, of which there may be four.
"""
OWN_MEMORY = 2**30
"""Bytes of a worker's pod for Ray itself: its daemons and its shared memory."""
OBJECT_STORE = 128 * 2**20
"""Bytes: only shard ids and reports cross it."""
GRACE = 60
"""Seconds from SIGTERM to SIGKILL: a run commits what is in work within 25."""

SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""How clouds mark nodes that they may take back."""
SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")


def cluster_spec(job: Job, spec_map: str) -> Manifest:
    """A RayCluster's spec: token authentication on, nothing public, no pod as root."""
    grows = job.least < job.most
    cluster: Manifest = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": grows,
    }
    if grows:
        cluster["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 120,
            "resources": _resources("500m", "1Gi"),
            "securityContext": container_security(),
        }
    cluster["headGroupSpec"] = _head(job, spec_map, grows)
    cluster["workerGroupSpecs"] = [_workers(job, spec_map)]
    return cluster


def submitter(job: Job) -> Manifest:
    """The pod that hands the entrypoint to the cluster and follows its log."""
    container = _container(job, "ray-job-submitter", _resources(SUBMITTER_CPUS, SUBMITTER_MEMORY), [])
    container["env"] = [variable for variable in container["env"] if "value" in variable]
    return _pod(job, container, [], token=False)


def _head(job: Job, spec_map: str, grows: bool) -> Manifest:
    container = _container(job, "ray-head", _resources(HEAD_CPUS, HEAD_MEMORY), _mounts())
    template = _pod(job, container, _volumes(spec_map), token=grows)
    # An evicted head is the end of a try.
    template["metadata"]["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {
        "serviceType": "ClusterIP",
        "rayStartParams": {
            "dashboard-host": "0.0.0.0",  # noqa: S104 (inside the pod's network; the service is internal)
            # The one CPU that Ray needs beside a pool of workers; none where the driver must go to a worker.
            "num-cpus": "0" if job.driver_on_worker else "1",
            "object-store-memory": str(OBJECT_STORE),
        },
        "template": template,
    }


def _workers(job: Job, spec_map: str) -> Manifest:
    each = job.workers_a_pod
    usual = GPU_WORKER_MEMORY if job.gpus else WORKER_MEMORY
    memory = size(job.resources.memory or usual) * each
    limits = _resources(str(job.cpus * each), f"{-(-(memory + OWN_MEMORY) // 2**20)}Mi")
    parameters = {
        "num-cpus": str(job.cpus * each),
        "memory": str(memory),
        "object-store-memory": str(OBJECT_STORE),
    }
    if job.gpus:
        gpus = str(1 if job.gpus < 1 else int(job.gpus))
        parameters["num-gpus"] = gpus
        for amounts in limits.values():
            amounts["nvidia.com/gpu"] = gpus
    template = _pod(job, _container(job, "ray-worker", limits, _mounts()), _volumes(spec_map), token=False)
    _place(job, template["spec"])
    return {
        "groupName": "workers",
        "replicas": -(-job.least // each),
        "minReplicas": -(-job.least // each),
        "maxReplicas": -(-job.most // each),
        "rayStartParams": parameters,
        "template": template,
    }


def _place(job: Job, pod: Manifest) -> None:
    """Say which nodes a worker goes to."""
    if job.resources.node_selector:
        pod["nodeSelector"] = dict(job.resources.node_selector)
    keys = [*(["nvidia.com/gpu"] if job.gpus else []), *job.spec.kubernetes.tolerations]
    if job.resources.spot:
        keys += SPOT_TAINTS
        pod["affinity"] = {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    _prefer(label, value) for label, value in SPOT_LABELS.items()
                ]
            }
        }
    if keys:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in dict.fromkeys(keys)]


def _prefer(label: str, value: str) -> Manifest:
    expression = {"key": label, "operator": "In", "values": [value]}
    return {"weight": 100, "preference": {"matchExpressions": [expression]}}


def _pod(job: Job, container: Manifest, volumes: list[Manifest], *, token: bool) -> Manifest:
    """A pod; `token` lets it speak to Kubernetes, which only an autoscaler must."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": token,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *volumes],
    }
    if job.spec.kubernetes.service_account is not None:
        spec["serviceAccountName"] = job.spec.kubernetes.service_account
    return {"metadata": {"labels": labels(job)}, "spec": spec}


def _container(job: Job, name: str, resources: Manifest, mounts: list[Manifest]) -> Manifest:
    return {
        "name": name,
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "env": job.environment(),
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
    }


def _mounts() -> list[Manifest]:
    return [
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        {"name": "spec", "mountPath": MOUNT, "readOnly": True},
    ]


def _volumes(spec_map: str) -> list[Manifest]:
    return [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
        {"name": "spec", "configMap": {"name": spec_map}},
    ]


def _resources(cpus: str, memory: str) -> Manifest:
    """Requests and limits alike, so that a pod is the last to be evicted; cores may be borrowed by none."""
    return {kind: {"cpu": cpus, "memory": memory} for kind in ("requests", "limits")}
