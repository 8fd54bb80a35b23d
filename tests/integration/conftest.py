"""One Ray cluster for all integration tests, apart from any other on this machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.local_ray import start_ray
from tests.tiny import pictures, tiny_weights

RAY_CPUS = 5


@pytest.fixture(scope="session")
def ray_cluster(s3_endpoint: str) -> Iterator[None]:
    """A local Ray whose processes know the test's S3 server.

    Its folder is short, because sockets lie in it, and its own, because a file of another cluster there would
    be taken for a cluster to join.
    """
    import ray

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-value",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        start_ray(RAY_CPUS, log_to_driver=False)
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a tiny real model."""
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 small images, two of them broken. Not to be changed."""
    return pictures(tmp_path_factory.mktemp("images"), 22)


@pytest.fixture
def many(images: Path, tmp_path: Path) -> Path:
    """Ten times the good images: what comes upon a run's first result finds most of it undone."""
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(10):
        for path in images.rglob("0*.png"):
            (folder / f"{copy}-{path.name}").hardlink_to(path)
    return folder
