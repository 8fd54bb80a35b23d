"""What the engine decides before and around Ray: room for the pool, and when to give up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ExitCode, explain
from pipeline import cluster as clusters
from pipeline.cluster import NoCluster, cluster, crowding, shortfall
from pipeline.engine import FAILURES, NothingWorks, attempt, run_local
from pipeline.inputs import Inputs
from pipeline.results import ShardResult
from pipeline.storage import Unavailable
from tests.job import Job, settings_of, start
from tests.tiny import pictures, tiny_weights


@pytest.mark.parametrize(
    ("nodes", "free", "workers", "cpus", "gpus", "said"),
    [
        ([{"CPU": 4.0}], {"CPU": 4.0}, 3, 1, 0, None),
        ([{"CPU": 4.0}], {"CPU": 4.0}, 4, 1, 0, "need 5 free CPUs (one beside the pool), 4 are free"),
        ([{"CPU": 4.0}], {"CPU": 2.0}, 3, 1, 0, "2 are free"),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 6.0}, 3, 2, 0, "the cluster's nodes hold 2"),
        ([{"CPU": 4.0, "GPU": 2.0}], {"CPU": 4.0, "GPU": 2.0}, 2, 1, 1, None),
        ([{"CPU": 4.0, "GPU": 1.0}], {"CPU": 4.0, "GPU": 1.0}, 2, 1, 1, "nodes hold 1"),
        ([{"CPU": 9.0, "GPU": 1.0}], {"CPU": 9.0, "GPU": 1.0}, 4, 1, 0.25, None),
        ([{"CPU": 9.0, "GPU": 1.0}], {"CPU": 9.0, "GPU": 0.5}, 4, 1, 0.25, "0.5 are free"),
        ([], {}, 1, 1, 0, "nodes hold 0"),
    ],
)
def test_a_pool_that_does_not_fit_is_told_why(
    nodes: Any, free: Any, workers: int, cpus: int, gpus: float, said: str | None
) -> None:
    problem = shortfall(nodes, free, workers, cpus, gpus)
    if said is None:
        assert problem is None
    else:
        assert problem is not None
        assert said in problem


@pytest.mark.parametrize(
    ("workers", "cpus", "said"),
    [
        (2, 2, None),
        (8, 1, "8 workers of 1 CPU on 4 cores: they will wait for one another; set workers.count=4"),
        (2, 3, "2 workers of 3 CPUs on 4 cores: they will wait for one another; set workers.count=1"),
        (1, 64, "1 worker of 64 CPUs on 4 cores: its threads will wait for one another; set workers.cpus=4"),
        (2, 64, "2 workers of 64 CPUs on 4 cores: they will wait .* set workers.count=1 and workers.cpus=4"),
    ],
)
def test_a_pool_larger_than_this_machine_is_told_of(
    workers: int, cpus: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipeline.cluster._initialized", lambda: False)  # other tests' Ray is in this process
    found = crowding(workers, cpus)
    assert found is None if said is None else re.fullmatch(said, found or "")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert crowding(workers, cpus) is None, "the cores of another machine"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that `ray.init` is called with; as often as its environment says, it fails."""
    import ray

    calls: list[str] = []

    def init(address: str, **_: Any) -> None:
        calls.append(address)
        if len(calls) <= int(os.environ.get("FAILS", "0")):
            raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(clusters, "_require", lambda *_: None)
    return calls


def test_ray_is_started_again_where_a_busy_machine_gave_it_no_time(
    starts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAILS", "2")
    with cluster(settings_of("in", tiny_weights(tmp_path), "out"), 1, address="local"):
        assert starts == ["local"] * 3


@pytest.mark.parametrize(
    ("address", "tries", "advice"), [("local", 3, "--local"), ("10.0.0.1:6379", 1, "the token")]
)
def test_a_ray_that_is_not_to_be_had_ends_with_advice(
    address: str, tries: int, advice: str, starts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAILS", "9")
    with (
        pytest.raises(NoCluster, match="timed out during startup") as raised,
        cluster(settings_of("in", tiny_weights(tmp_path), "out"), 1, address=address),
    ):
        raise AssertionError("it was not joined")
    assert len(starts) == tries
    code, said = explain(raised.value) or (ExitCode.BUG, "")
    assert code == ExitCode.STORE
    assert advice in said


def test_an_error_is_the_shards_result() -> None:
    def fail(shard: str) -> ShardResult:
        raise ValueError(f"no such shard {shard}")

    assert attempt(fail, "0000-000009").error == "ValueError: no such shard 0000-000009"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = pictures(tmp_path / "in", 30)
    return start(settings_of(str(source), tiny_weights(tmp_path), str(tmp_path / "out")), shard_size=1)


def failing(first: int, last: int) -> Callable[..., Any]:
    """A `fetch` that finds the store down for some of its calls."""
    fetch, calls = Inputs.fetch, 0

    def unreliable(self: Inputs, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if first <= calls <= last:
            raise Unavailable("s3://images: keeps answering 503")
        return fetch(self, *arguments)

    return unreliable


def test_a_run_in_which_nothing_works_is_given_up(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[ShardResult] = []
    monkeypatch.setattr(Inputs, "fetch", failing(1, 10**6))
    with pytest.raises(
        NothingWorks, match="10 shards in a row failed, the last with Unavailable: s3://images"
    ):
        run_local(job.settings, job.pending, on_result=results.append)
    assert len(results) == FAILURES < job.plan.shards == 32
    assert len(job.pending) == 32


def test_a_run_outlives_a_bad_patch(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[ShardResult] = []
    monkeypatch.setattr(Inputs, "fetch", failing(5, 5 + FAILURES - 2))
    run_local(job.settings, job.pending, on_result=results.append)
    failed = [result.shard for result in results if result.error]
    assert len(failed) == FAILURES - 1
    assert job.pending == sorted(failed)
    run_local(job.settings, job.pending, on_result=results.append)
    assert job.run.complete
