"""Pools that grow as room comes, and workers with memory, variables and nodes of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engine import ClusterTooSmall, run
from pipeline.results import ShardResult
from tests.integration.conftest import RAY_CPUS
from tests.job import settings_of, start
from tests.tiny import encoded, picture

pytestmark = pytest.mark.cluster


def many(folder: Path, number: int) -> Path:
    folder.mkdir()
    for at in range(number):
        (folder / f"{at:04}.png").write_bytes(encoded(picture(at, 48 + 16 * (at % 3), 64)))
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_a_pool_begins_with_what_there_is_room_for_and_grows(weights: Path, tmp_path: Path) -> None:
    import ray

    @ray.remote(num_cpus=RAY_CPUS - 2)
    class Holder:
        def ready(self) -> bool:
            return True

    holder = Holder.remote()
    assert ray.get(holder.ready.remote())
    job = start(settings_of(str(many(tmp_path / "in", 1000)), weights, str(tmp_path / "out")), shard_size=1)
    results: list[ShardResult] = []

    def on_result(result: ShardResult) -> None:
        results.append(result)
        if len(results) == 5:
            ray.kill(holder)

    run(job.settings, job.pending, workers=2, least=1, on_result=on_result)
    assert job.run.complete
    assert len({result.worker for result in results[:5]}) == 1
    assert len({result.worker for result in results}) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_growing_pool_stops_in_good_order(weights: Path, tmp_path: Path) -> None:
    job = start(settings_of(str(many(tmp_path / "in", 60)), weights, str(tmp_path / "out")), shard_size=1)
    seen: list[ShardResult] = []
    run(job.settings, job.pending, workers=2, least=1, on_result=seen.append, stop=lambda: bool(seen))
    assert {result.shard for result in seen} == {commit.shard for commit in job.run.commits}
    assert 0 < len(seen) < 60


@pytest.mark.usefixtures("ray_cluster")
def test_workers_get_the_jobs_variables(weights: Path, tmp_path: Path, s3_bucket: str) -> None:
    """Only the job's variables lead its workers elsewhere than to the store that this process sees."""
    job = start(settings_of(str(many(tmp_path / "in", 1)), weights, f"{s3_bucket}/masks"), shard_size=1)
    results: list[ShardResult] = []
    elsewhere = replace(
        job.settings, env={"AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    )
    run(elsewhere, job.pending, workers=1, on_result=results.append)
    assert [result.error is None for result in results] == [False]
    run(job.settings, job.pending, workers=1, on_result=results.append)
    assert job.run.complete


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("more", "told"),
    [({"memory": 2**50}, "1048576.0 GiB"), ({"gpus": 1, "accelerator": "L4"}, "1 L4 GPU")],
)
def test_what_no_node_has_is_refused_at_once(
    more: dict[str, object], told: str, weights: Path, tmp_path: Path
) -> None:
    settings = settings_of(str(many(tmp_path / "in", 1)), weights, str(tmp_path / "out"))
    job = start(settings, shard_size=1)
    with pytest.raises(ClusterTooSmall, match=told):
        run(replace(settings, **more), job.pending, workers=1, on_result=lambda _: None)  # type: ignore[arg-type]
