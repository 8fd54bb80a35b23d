"""Tiled jobs on Ray and S3: equal rows for any number of workers, and a job that is cut off goes on."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest

from jobs.scenes import render
from pipeline.engine import run
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.settings import Tiling
from pipeline.verify import Outcome, verify
from tests.rasters import write_raster
from tests.tiled import Run, TiledJob, tiled_job

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def bucket(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two COGs and a broken file in a bucket."""
    folder, name = tmp_path_factory.mktemp("rasters"), f"tiled-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    store = Store.open(f"s3://{name}/in")
    for seed, size in ((1, 384), (2, 256)):
        bands = np.ascontiguousarray(render(seed, size, size).image.transpose(2, 0, 1))
        path = write_raster(folder / f"{seed}.tif", bands, driver="COG", blocksize=128)
        store.put(f"{seed}.tif", path.read_bytes())
    store.put("broken.tif", b"II*\0" + bytes(40))
    return name


def job_in(bucket: str, name: str, weights: Path, shard_size: int = 3) -> TiledJob:
    source = InputSource(f"s3://{bucket}/in")
    return tiled_job(
        source,
        f"s3://{bucket}/{name}",
        weights,
        shard_size,
        Tiling(size=128, overlap=32),
        batch_images=1,
    )


def on_ray(workers: int) -> Run:
    def do(settings: SegmentSettings, shards: Sequence[str]) -> None:
        errors: list[str] = []
        run(
            settings,
            shards,
            workers=workers,
            on_result=lambda result: errors.extend([result.error] * bool(result.error)),
        )
        assert not errors, errors

    return do


@pytest.fixture(scope="module")
def reference(bucket: str, weights: Path) -> tuple[pa.Table, pa.Table]:
    job = job_in(bucket, "reference", weights)
    job.do()
    return job.rows()


@pytest.mark.parametrize("workers", [pytest.param(n, marks=pytest.mark.cluster) for n in (1, 2)] + [4])
def test_rows_are_equal_for_any_number_of_workers(
    bucket: str, weights: Path, reference: tuple[pa.Table, pa.Table], workers: int
) -> None:
    job = job_in(bucket, f"w{workers}", weights, shard_size=workers)
    job.do(on_ray(workers))
    assert job.rows() == reference
    assert reference[1].num_rows > 0
    statuses = {row["image_id"]: row["status"] for row in job.run.images().to_pylist()}
    assert statuses["broken.tif"] == "corrupt"
    for store in (job.store, job.windows):
        assert verify(store, full=True).outcome is Outcome.GOOD


def test_what_is_committed_is_not_done_again(bucket: str, weights: Path) -> None:
    job = job_in(bucket, "again", weights)
    assert job.plan.windows is not None
    first, *rest = job.plan.windows.shard_ids()
    on_ray(1)(job.settings.of_windows(), [first])
    before = job.windows.get(f"commits/{first}.json")
    assert Ledger(job.windows).pending([job.plan.windows]) == rest
    job.do(on_ray(1))
    assert job.windows.get(f"commits/{first}.json") == before
    assert verify(job.store).outcome is Outcome.GOOD
