"""What is in `deploy/` is what clusters take, closed to the outside, and of one version with the project."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.kube import JOB_LABEL, USER
from jobs.render import render
from tests.kube import refused

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
Json = dict[str, Any]


def manifests() -> list[Json]:
    found = [yaml.safe_load_all(path.read_text()) for path in sorted((DEPLOY / "kuberay").glob("*.yaml"))]
    return [manifest for documents in found for manifest in documents]


def of_kind(kind: str) -> list[Json]:
    return [manifest for manifest in manifests() if manifest["kind"] == kind]


def pods(value: object) -> Iterator[Json]:
    """Every pod template below."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for below in value.values():
            yield from pods(below)
    elif isinstance(value, list):
        for below in value:
            yield from pods(below)


def pinned(name: str) -> str:
    found = re.search(rf"^{name}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_clusters_take_the_manifests(manifest: Json) -> None:
    assert refused(manifest) == []


def test_the_cluster_is_closed() -> None:
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    head = cluster["spec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")
    assert not [m for m in manifests() if m["kind"] in ("Ingress", "Service", "Secret")]
    assert cluster["spec"]["rayVersion"] == pinned("ray")


def test_every_pod_is_bound() -> None:
    found = list(pods(manifests()))
    assert len(found) == 2
    for pod in found:
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == USER
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_policies_cover_the_standing_cluster_and_rendered_jobs() -> None:
    policies = of_kind("NetworkPolicy")
    assert sorted(kind for policy in policies for kind in policy["spec"]["policyTypes"]) == [
        "Egress",
        "Ingress",
    ]
    for policy in policies:
        assert policy["spec"]["podSelector"]["matchExpressions"] == [{"key": JOB_LABEL, "operator": "Exists"}]
    rendered = render(ROOT / "examples" / "s3.yaml").manifests
    labelled = [*pods(manifests()), *pods(rendered)]
    assert len(labelled) == 5
    assert all(pod["metadata"]["labels"][JOB_LABEL] for pod in labelled)
    # Nobody comes in from anywhere: each rule names pods or a namespace.
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
            assert all(
                "podSelector" in peer or "matchLabels" in peer["namespaceSelector"] for peer in rule["from"]
            )


def test_the_budget_holds_the_head() -> None:
    (budget,) = of_kind("PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"] == {
        "ray.io/cluster": "condinst",
        "ray.io/node-type": "head",
    }


def test_rays_launcher_takes_the_aws_cluster() -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load((DEPLOY / "aws.yaml").read_text())
    validate_config(fillout_defaults(config))
    start = " ".join(config["head_start_ray_commands"])
    assert "RAY_AUTH_MODE=token" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in " ".join(config["worker_start_ray_commands"])
    (rule,) = config["provider"]["security_group"]["IpPermissions"]
    assert rule["FromPort"] == rule["ToPort"] == 22
    assert "0.0.0.0/0" not in str(rule)
    assert ".git" in config["rsync_exclude"]


def test_the_image_runs_as_the_user_that_pods_name() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"USER {USER}:{USER}" in text
    assert "-c constraints.txt" in text
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-", text, re.M)


def test_what_the_image_is_built_from_is_not_ignored() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for source in line.split()[:-1]
    }
    assert copied == {entry[1:] for entry in ignore if entry.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)


def test_the_script_is_a_script() -> None:
    done = subprocess.run(["bash", "-n", DEPLOY / "local.sh"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([DEPLOY / "local.sh"], capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "deploy/local.sh up 2" in said.stderr


def test_workflows_use_pinned_actions_and_few_rights() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yaml"):
        flow = yaml.safe_load(path.read_text())
        assert flow["permissions"] == {"contents": "read"}
        steps = [step for job in flow["jobs"].values() for step in job["steps"]]
        assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)
        assert all("timeout-minutes" in job for job in flow["jobs"].values())


def test_the_workflow_runs_what_ci_runs_and_the_tests_of_clusters() -> None:
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yaml").read_text())
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in flow["jobs"].items()}
    assert ".ci/run" in runs["test"]
    assert "make test-clusters" in runs["clusters"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    # The packages that make browser and make ceph install are Debian's, and only root installs them.
    assert all(
        flow["jobs"][name]["container"]["image"].endswith("-bookworm") for name in ("test", "clusters")
    )
    every = (ROOT / "Makefile").read_text()
    assert all(f"\n{step}:" in every for step in ("browser", "ceph", "lint", "test", "test-clusters"))
