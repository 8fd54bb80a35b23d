"""A run that died anywhere goes on from there, and ends with the tables of one that never did."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import tables
from pipeline.engine import run_local
from pipeline.ledger import FingerprintMismatch, Ledger
from pipeline.manifest import InputSource
from pipeline.storage import Store
from tests.integration.local_ray import ray_processes
from tests.job import Job, settings_of, start

WRITES = ("put", "create", "copy", "delete")


class Died(BaseException):
    """The process ends on the spot."""


def finish(job: Job) -> None:
    run_local(job.settings, job.pending, on_result=lambda _: None)


def assert_equal(job: Job, reference: Job) -> None:
    assert job.run.complete
    for mine, theirs in zip(job.rows(), reference.rows(), strict=True):
        assert mine.equals(theirs)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A place for a Ray of this test's own; short, because sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.cluster)])
def test_a_killed_driver_leaves_what_is_committed_and_the_next_does_the_rest(
    workers: int,
    many: Path,
    weights: Path,
    tmp_path: Path,
    ray_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = InputSource(str(many), include=("[0-3]-*",))  # the kill must come before all are done
    reference = start(settings_of(source, weights, str(tmp_path / "reference")), shard_size=1)
    finish(reference)
    settings = settings_of(source, weights, str(tmp_path / "out"))
    (tmp_path / "settings").write_bytes(pickle.dumps(settings))
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    command = [sys.executable, "-m", "tests.integration.driver", str(tmp_path / "settings"), str(workers)]
    commits = tmp_path / "out" / "commits"
    driver = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    wait_for(lambda: len(list(commits.glob("*.json"))) >= 3 or driver.poll() is not None)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    wait_for(lambda: not ray_processes(ray_folder, "MapWorker"))  # its workers die with it

    job = start(settings, shard_size=1)
    before = {commit.shard: commit.attempt for commit in job.run.commits}
    missing = job.pending
    assert 3 <= len(before) < job.plan.shards == len(before) + len(missing)
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert_equal(job, reference)
    after = {commit.shard: commit.attempt for commit in job.run.commits}
    assert {shard: after[shard] for shard in before} == before, "only the missing shards ran"


def dying_store(monkeypatch: pytest.MonkeyPatch, place: int, when: str, prefix: str) -> list[str]:
    """Let the process die before or after its `place`-th write below the output; returns what it wrote."""
    written: list[str] = []

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Store, *arguments: Any) -> Any:
            if self.uri != prefix:
                return method(self, *arguments)
            written.append(name)
            number = len(written)
            if number == place and when == "before":
                raise Died
            result = method(self, *arguments)
            if number == place:
                raise Died
            return result

        return call

    for name in WRITES:
        monkeypatch.setattr(Store, name, wrap(name, getattr(Store, name)))
    return written


@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_every_write_of_a_shard_on_s3(
    when: str, images: Path, weights: Path, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = start(settings_of(str(images / "b"), weights, str(tmp_path / "reference")), shard_size=100)
    finish(reference)

    def die(place: int) -> tuple[Job, list[str]]:
        output = f"{s3_bucket}/{when}{place}"
        job = start(settings_of(str(images / "b"), weights, output), shard_size=100)
        with monkeypatch.context() as patch:
            written = dying_store(patch, place, when, output)
            try:
                finish(job)
            except Died:
                assert len(written) >= place
        return job, written

    _, steps = die(10**6)
    assert steps[:7] == ["put", "put", "put", "create", "copy", "copy", "delete"]
    for place in range(1, 8):
        job, written = die(place)
        committed = place > 4 or (place == 4 and when == "after")
        assert (job.pending == []) == committed, written
        if committed:
            assert_equal(job, reference)  # read exactly though nothing, or half of it, is published
        again = start(job.settings, shard_size=100)
        finish(again)
        assert_equal(again, reference)
        names = {info.key for info in again.store.list()}
        assert {"instances/0000-000000.parquet", "images/0000-000000.parquet"} <= names
        orphans = {name.split("/")[2] for name in names if name.startswith("_attempts/")}
        ruling = Ledger(again.store).read("0000-000000")
        assert ruling is not None
        assert ruling.attempt not in orphans


def test_a_complete_output_is_left_as_it_is(images: Path, weights: Path, tmp_path: Path) -> None:
    job = start(settings_of(str(images), weights, str(tmp_path / "out")))
    finish(job)
    before = [(info.key, info.etag) for info in job.store.list()]
    again = start(job.settings)
    assert again.plan == job.plan
    assert again.pending == []
    assert [(info.key, info.etag) for info in job.store.list()] == before


def test_other_settings_are_refused_before_anything_runs(images: Path, weights: Path, tmp_path: Path) -> None:
    job = start(settings_of(str(images), weights, str(tmp_path / "out")))
    other = replace(job.settings, detect={"score_threshold": 0.7})
    with pytest.raises(FingerprintMismatch, match=r"score_threshold: 0\.5 -> 0\.7"):
        start(other)
    elsewhere = start(replace(other, output=str(tmp_path / "elsewhere")))
    assert elsewhere.pending == elsewhere.plan.shard_ids()


def test_new_images_are_a_new_generation_of_the_same_tables(
    images: Path, weights: Path, tmp_path: Path
) -> None:
    from pipeline.manifest import freeze

    job = start(settings_of(str(images / "a"), weights, str(tmp_path / "out")))
    finish(job)
    more = replace(job.settings, sources=settings_of(str(images / "b"), weights, "x").sources)
    plan = freeze(more.sources, job.store, 4, 1)
    ledger = Ledger(job.store)
    ledger.claim(more.job_record())
    pending = ledger.pending([job.plan, plan])
    assert pending == plan.shard_ids() == [f"0001-{n:06d}" for n in range(3)]
    run_local(more, pending, on_result=lambda _: None)
    run = tables.open(job.store.uri)
    assert run.complete
    assert run.images().num_rows == job.plan.images + plan.images
