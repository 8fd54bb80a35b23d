"""The schemas that manifests are held against are KubeRay's, wherever the tests run."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import kube
from tests.vendor.kuberay.reduce import KINDS, original, reduced, vendored, vendored_path

CLUSTER = Path(__file__).parents[2] / "deploy" / "kuberay" / "cluster.yaml"


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests as a clone of the project runs them: only with what is in git."""
    monkeypatch.setattr(kube, "crds", lambda: None)
    kube.structural_schema.cache_clear()
    yield
    kube.structural_schema.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_in_git_are_kuberays_reduced(kind: str) -> None:
    folder = kube.crds()
    if folder is None:
        pytest.skip("KubeRay's own files (shared/kuberay-crds) are not here; see tests/vendor/kuberay")
    assert vendored(kind) == reduced(original(folder, kind))


def test_the_files_in_git_are_small() -> None:
    assert sum(vendored_path(kind).stat().st_size for kind in KINDS) < 300_000


def test_only_prose_is_left_out() -> None:
    schema = {
        "type": "object",
        "description": "prose",
        "properties": {"description": {"type": "string", "description": "prose"}},
        "anyOf": [{"required": ["description"], "description": "prose"}],
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {},
    }
    crd = {
        "apiVersion": "v1",
        "kind": "CRD",
        "metadata": {"name": "x"},
        "spec": {"group": "g", "names": {}, "scope": "Namespaced", "versions": [version]},
    }
    (kept,) = reduced(crd)["spec"]["versions"]
    assert kept["schema"]["openAPIV3Schema"] == {
        "type": "object",
        "properties": {"description": {"type": "string"}},
        "anyOf": [{"required": ["description"]}],
    }


@pytest.mark.usefixtures("clone")
def test_a_clone_takes_and_refuses_the_same() -> None:
    manifest: dict[str, Any] = next(
        one for one in yaml.safe_load_all(CLUSTER.read_text()) if one["kind"] == "RayCluster"
    )
    assert kube.refused(manifest) == []
    wrong = deepcopy(manifest)
    wrong["spec"]["headGroupSpec"]["replicaz"] = 1
    wrong["spec"]["workerGroupSpecs"][0]["replicas"] = "many"
    told = "\n".join(kube.refused(wrong))
    assert "replicaz: unknown field" in told
    assert "replicas" in told.replace("replicaz", "")
