"""Real photographs give the same rows from disk and S3, in process and on Ray, with the shipped model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from condinst.weightsfile import demo_path
from pipeline.engine import run, run_local
from tests.integration.test_engine import upload
from tests.job import Job, settings_of, start

EACH = 4
"""Images taken of each set of DATA_DIR, so that all sizes and kinds of photograph come by."""


@pytest.fixture(scope="module")
def photographs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    sets = sorted(path.parent for path in data_dir.glob("*/annotations"))
    if not sets:
        pytest.skip(f"no sets with annotations in {data_dir}")
    for one in sets:
        files = sorted((one / "images").rglob("*.jpg"), key=lambda path: path.stat().st_size)
        for path in files[:: max(1, len(files) // EACH)][:EACH]:
            (folder / one.name).mkdir(exist_ok=True)
            shutil.copy(path, folder / one.name / path.name)
    return folder


@pytest.fixture(scope="module")
def reference(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    output = str(tmp_path_factory.mktemp("reference") / "out")
    job = start(settings_of(str(photographs), demo_path(), output))
    run_local(job.settings, job.pending, on_result=lambda _: None)
    return job


def test_every_photograph_has_its_row(photographs: Path, reference: Job) -> None:
    rows = reference.run.images(["image_id", "status"]).to_pylist()
    files = [path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg")]
    assert sorted(row["image_id"] for row in rows) == sorted(files)
    assert {row["status"] for row in rows} <= {"ok", "empty"}
    assert reference.run.instances(["image_id"]).num_rows > 0


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.cluster), 2])
def test_ray_on_s3_gives_the_rows_of_disk_in_process(
    workers: int, photographs: Path, reference: Job, s3_bucket: str
) -> None:
    job = start(settings_of(upload(photographs, s3_bucket), demo_path(), f"{s3_bucket}/masks"))
    run(job.settings, job.pending, workers=workers, on_result=lambda _: None)
    assert job.run.complete
    for mine, theirs in zip(job.rows(), reference.rows(), strict=True):
        assert mine.equals(theirs)
