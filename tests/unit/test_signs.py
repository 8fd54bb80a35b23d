"""A stalled run says which shard, where and since when; a run at work says nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.cancel import cancel_job
from jobs.errors import ExitCode
from jobs.lookout import Lookout
from jobs.status import show_status
from jobs.stopping import Stop
from pipeline import progress
from pipeline.clock import Clock
from pipeline.ledger import Ledger
from pipeline.progress import Progress
from pipeline.retry import request
from pipeline.signs import AGAIN, PATIENCE, ShardSign, StallWatch, WorkerSign, read_signs
from pipeline.steps import reached
from pipeline.stopping import CANCEL_KEY, cancel_requested, clear_cancel, request_cancel
from pipeline.storage import Store, StoreOptions
from tests.made import contents, made_job, plan_of, work

SHARD = ShardSign("0000-000001", "w", 100.0, 8, 3, "decode", 110.0, 1)


def sign(*shards: ShardSign, at: float = 120.0, worker: str = "w") -> WorkerSign:
    return WorkerSign(worker, at, 90.0, 3, tuple(replace(shard, worker=worker) for shard in shards))


def watched() -> StallWatch:
    """A watch whose run has just begun."""
    watch = StallWatch()
    assert watch.look([], 0.0) == []
    return watch


def test_a_shard_that_stands_still_is_told_once_in_a_while() -> None:
    watch = watched()
    times = [at for at in range(0, 4000, 30) if watch.look([sign(SHARD, at=120.0 + at)], float(at))]
    assert times == [PATIENCE, PATIENCE + AGAIN, PATIENCE + 3 * AGAIN]
    (stall,) = watched_for(PATIENCE)
    assert (stall.sign.shard, stall.sign.worker, stall.seconds) == (SHARD.shard, "w", PATIENCE)
    assert stall.sign.doing == "decode, 1 image decoding"


def watched_for(seconds: float, *others: WorkerSign) -> list:
    watch = watched()
    watch.look([sign(SHARD), *others], 0.0)
    return watch.look([sign(SHARD, at=125.0), *others], seconds)


@pytest.mark.parametrize(
    "change", [{"done": 4}, {"step": "infer"}, {"step_since": 111.0}, {"decoding": 0}, {"since": 101.0}]
)
def test_any_advance_is_a_sign_of_life(change: dict) -> None:
    watch = watched()
    watch.look([sign(SHARD)], 0.0)
    assert watch.look([sign(replace(SHARD, **change), at=125.0)], PATIENCE) == []


def test_a_younger_shard_may_wait_for_the_older_one_of_its_worker() -> None:
    younger = replace(SHARD, shard="0000-000002", since=105.0)
    watch = watched()
    watch.look([sign(SHARD, younger)], 0.0)
    assert watch.look([sign(replace(SHARD, done=4), younger, at=125.0)], PATIENCE) == []
    both = watch.look([sign(replace(SHARD, done=4), younger, at=126.0)], 2 * PATIENCE)
    assert [stall.sign.shard for stall in both] == [SHARD.shard, younger.shard]


def test_signs_of_dead_workers_are_no_stalls() -> None:
    before = StallWatch()
    for at in (0.0, PATIENCE, 2 * PATIENCE):
        assert before.look([sign(SHARD)], at) == [], "it stood there before the run began"
    retaken = sign(replace(SHARD, since=130.0), at=140.0, worker="other")
    assert [s.sign.worker for s in watched_for(PATIENCE, retaken)] == ["other"], "Ray handed it out again"
    watch = watched()
    watch.look([sign(SHARD)], 0.0)
    assert watch.look([sign(SHARD)], PATIENCE, done={SHARD.shard}) == []


def test_a_silent_worker_is_told_so() -> None:
    watch = watched()
    watch.look([sign(SHARD)], 0.0)
    (stall,) = watch.look([sign(SHARD)], PATIENCE)
    assert stall.silent == PATIENCE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_job(str(tmp_path / "out"), tmp_path / "in")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_driver_tells_of_a_stall(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real signs of a worker that has a shard in work and does not go on."""
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    told: list[str] = []
    with Lookout(store, Stop("run it again"), told.append, patience=0.4):
        life = Progress(store, "host-7")
        with life.shard("0000-000001", 4, Clock("0000-000001")):
            reached("decode", "0000-000001")
            life.advance("0000-000001", 3)
            # What is told first may be that nothing has begun, or of a sign from before this step.
            until(lambda: any("3 of 4 images done" in line for line in told))
        life.close()
    line = next(line for line in told if "3 of 4 images done" in line)
    assert line.startswith("shard 0000-000001 stands still for")
    assert "worker host-7, at decode, 3 of 4 images done" in line
    assert ", since 20" in line


def test_a_driver_tells_that_nothing_begins(store: Store) -> None:
    told: list[str] = []
    with Lookout(store, Stop("run it again"), told.append, patience=0.2):
        until(lambda: told)
    assert told[0].startswith("no worker has begun a shard for")


def test_a_driver_obeys_a_request_to_cancel(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("signal.alarm", asked.append)
    stop = Stop("run it again")
    with Lookout(store, stop, lambda _: None, patience=0.1):
        assert not stop()
        request_cancel(store)
        until(stop)
    assert stop.reason is not None
    assert stop.reason.code == ExitCode.CANCELLED
    assert str(stop.reason) == "cancelled on request; run it again"
    assert asked == [25], "those in work get the grace of a signal"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"time": "x"}', b"\xff"])
def test_whatever_is_put_there_cancels(store: Store, data: bytes) -> None:
    assert cancel_requested(store) is None
    store.put(CANCEL_KEY, data)
    assert cancel_requested(store) is not None
    clear_cancel(store)
    assert cancel_requested(store) is None


def test_broken_signs_are_left_out(store: Store) -> None:
    whole = {"worker": "w", "time": 2.0, "started": 1.0, "images": 3, "shards": {}}
    for number, said in enumerate(
        (b"{", b"[]", b'{"shards": []}', json.dumps({**whole, "shards": [1]}).encode())
    ):
        store.put(f"_progress/{number}.json", said)
    store.put("_progress/whole.json", json.dumps(whole).encode())
    assert [sign.worker for sign in read_signs(store)] == ["w"]


def test_status_shows_steps_requests_and_what_stands_still(store: Store) -> None:
    first, second, _ = plan_of(store).shard_ids()
    work(store, first)
    now = time.time()
    part = {
        "since": now - 300,
        "images": 4,
        "done": 1,
        "step": "infer",
        "step_since": now - 290,
        "decoding": 2,
    }
    said = {"worker": "w-1", "time": now - 3, "started": now - 400, "images": 5, "shards": {second: part}}
    store.put("_progress/w-1.json", json.dumps(said).encode())
    request_cancel(store)
    console = Console(width=200, record=True)
    show_status(store.uri, StoreOptions(), console)
    page = console.export_text()
    assert "cancel requested" in page
    assert f"{second} 1/4 for 5 min" in page
    assert "infer, 2 images decoding, 5 min ago stands still" in page


def cancelled(store: Store) -> str:
    console = Console(width=200, record=True)
    cancel_job(store.uri, StoreOptions(), console)
    return console.export_text()


def test_a_cancel_is_left_for_a_job_that_is_not_done_alone(store: Store) -> None:
    first, *others = plan_of(store).shard_ids()
    for shard in others:
        work(store, shard)
    assert "cancel requested" in cancelled(store)
    assert cancel_requested(store) is not None
    clear_cancel(store)
    work(store, first)
    before = contents(store)
    assert cancelled(store) == "this job is complete: there is nothing to cancel\n"
    assert contents(store) == before


def test_a_retry_of_a_complete_job_can_be_cancelled(store: Store) -> None:
    for shard in plan_of(store).shard_ids():
        work(store, shard)
    request(store, {"corrupt"}, Ledger(store).revisions())
    assert "cancel requested" in cancelled(store)
    assert cancel_requested(store) is not None
