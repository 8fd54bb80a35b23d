"""What every test shares: where data lies, a real S3 server, and one Ray cluster a session."""

from __future__ import annotations

import os
import random
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.motoserver import moto_server

# How long an example takes says how busy the machine is; what hangs is ended by pytest's own limit.
# A run of the suite is the same each time; HYPOTHESIS_PROFILE=search looks for new examples.
settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

# One process a core: more threads than cores wait for one another, several times over.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).resolve().parent
_ORDER = ("faults", "integration", "e2e", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long ones first: what is short fills the end, where one process would wait for the other."""

    def rank(item: pytest.Item) -> int:
        folders = item.path.relative_to(TESTS).parts
        return next(number for number, name in enumerate(_ORDER) if name in folders)

    items.sort(key=rank)


SHARED = TESTS.parents[1] / "shared"


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{variable} is not set and {default} does not exist")
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws at random is the same in each run, whatever ran before it."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real, labelled images."""
    return _folder("DATA_DIR", SHARED / "data")


@pytest.fixture(scope="session")
def odd_images_dir() -> Path:
    """Folder of odd and broken image files with their `manifest.json`."""
    return _folder("ODD_IMAGES_DIR", SHARED / "data" / "odd-images")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a moto S3 server in its own process, spoken to over HTTP."""
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log, moto_server(log) as url:
        yield url


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://bucket` of a fresh bucket; the environment points every client at the test server."""
    import boto3

    settings = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-value",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
