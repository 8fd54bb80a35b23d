"""The same rows wherever images and tables lie and whoever runs the shards; and deaths that cost nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import boto3
import pytest

from pipeline.engine import READER, ClusterTooSmall, run, run_local
from pipeline.results import ShardResult
from pipeline.retry import Retry
from pipeline.verify import Outcome, verify
from tests.integration.conftest import RAY_CPUS
from tests.job import Job, settings_of, start
from tests.tiny import encoded, picture, pictures, tiny_weights

ENGINES: dict[str, Callable[..., None]] = {
    "local": run_local,
    "one worker": partial(run, workers=1),
    "two workers": partial(run, workers=2),
}


@pytest.fixture(scope="session")
def reference(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """An undisturbed run, from disk to disk, in this process."""
    job = start(settings_of(str(images), weights, str(tmp_path_factory.mktemp("reference") / "out")))
    run_local(job.settings, job.pending, on_result=lambda _: None)
    assert job.run.complete
    return job


def upload(folder: Path, bucket: str) -> str:
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*.*")):
        key = f"in/{path.relative_to(folder)}"
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=path.read_bytes())
    return f"{bucket}/in"


def assert_equal_rows(job: Job, reference: Job) -> None:
    assert job.run.complete
    for mine, theirs in zip(job.rows(), reference.rows(), strict=True):
        assert mine.num_rows > 20
        assert mine.equals(theirs)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("storage", "engine"),
    [
        ("disk", "local"),
        ("s3", "local"),
        ("disk", "one worker"),
        ("s3", "two workers"),
        pytest.param("s3", "one worker", marks=pytest.mark.cluster),
        pytest.param("disk", "two workers", marks=pytest.mark.cluster),
    ],
)
def test_rows_are_equal_on_every_engine_and_storage(
    storage: str,
    engine: str,
    images: Path,
    weights: Path,
    tmp_path: Path,
    s3_bucket: str,
    reference: Job,
) -> None:
    source = upload(images, s3_bucket) if storage == "s3" else str(images)
    output = f"{s3_bucket}/masks" if storage == "s3" else str(tmp_path / "out")
    job = start(settings_of(source, weights, output))
    results: list[ShardResult] = []
    ENGINES[engine](job.settings, job.pending, on_result=results.append)
    assert_equal_rows(job, reference)
    assert sorted(result.shard for result in results) == job.plan.shard_ids()
    assert all(result.won and result.error is None for result in results)
    assert len({result.worker for result in results}) <= (2 if engine == "two workers" else 1)
    assert {key.key.split("/")[0] for key in job.store.list()} == {
        *("_plans", "commits", "images", "instances", "job.json", "plans")
    }


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_costs_nothing(many: Path, weights: Path, tmp_path: Path) -> None:
    job, undisturbed = (start(settings_of(str(many), weights, str(tmp_path / name))) for name in ("a", "b"))
    run_local(undisturbed.settings, undisturbed.pending, on_result=lambda _: None)
    killed: list[int] = []

    def kill_the_first(result: ShardResult) -> None:
        if not killed:
            killed.append(int(result.worker.split("-")[-2]))
            os.kill(killed[0], signal.SIGKILL)

    run(job.settings, job.pending, workers=1, on_result=kill_the_first)
    assert_equal_rows(job, undisturbed)
    assert len({commit.work.worker for commit in job.run.commits}) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_stopped_run_commits_what_is_in_work_and_leaves_the_rest(
    many: Path, weights: Path, tmp_path: Path
) -> None:
    job = start(settings_of(str(many), weights, str(tmp_path / "out")), shard_size=1)
    seen: list[ShardResult] = []
    run(job.settings, job.pending, workers=2, on_result=seen.append, stop=lambda: bool(seen))
    assert READER not in {thread.name for thread in threading.enumerate()}, "it would outlive Ray"
    assert [result.error for result in seen] == [None] * len(seen)
    done = {commit.shard for commit in job.run.commits}
    assert {result.shard for result in seen} == done, "nothing that was begun is dropped, or not told"
    assert 0 < len(done) < job.plan.shards
    assert sorted(done | set(job.pending)) == job.plan.shard_ids()
    assert {info.key.split("/")[0] for info in job.store.list()}.isdisjoint(
        {"_attempts", "_stop", "_progress"}
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_retry_on_ray(weights: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 6)
    job = start(settings_of(str(folder), weights, str(tmp_path / "out")))
    run_local(job.settings, job.pending, on_result=lambda _: None)
    retry = Retry(frozenset({"corrupt"}), {c.shard: 0 for c in job.run.commits if c.counts.get("corrupt")})
    (folder / "b" / "nothing.png").write_bytes(encoded(picture(1)))
    results: list[ShardResult] = []
    run(job.settings, sorted(retry.revisions), workers=1, on_result=results.append, retry=retry)
    assert [result.error for result in results] == [None, None]
    assert verify(job.store, full=True).outcome is Outcome.GOOD
    assert verify(job.store).statuses == {"ok": 7, "corrupt": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_a_pool_without_a_spare_cpu_is_refused(images: Path, weights: Path, tmp_path: Path) -> None:
    job = start(settings_of(str(images), weights, str(tmp_path / "out")))
    with pytest.raises(ClusterTooSmall, match=rf"need {RAY_CPUS + 1} free CPUs \(one beside the pool\)"):
        run(job.settings, job.pending, workers=RAY_CPUS, on_result=lambda _: None)
    assert job.pending == job.plan.shard_ids()


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_cannot_start_says_why(images: Path, weights: Path, tmp_path: Path) -> None:
    job = start(settings_of(str(images), weights, str(tmp_path / "out")))
    settings = replace(job.settings, weights=str(tiny_weights(tmp_path, seed=3)))
    results: list[ShardResult] = []
    run(settings, job.pending, workers=1, on_result=results.append)
    assert len(results) == job.plan.shards
    assert all(
        "ModelChanged" in str(result.error) and "planned with" in str(result.error) for result in results
    )
    assert job.pending == job.plan.shard_ids()
