"""A job that runs into its max_gpu_hours: it ends at the end of shards, and a higher budget takes it on.

The job is real, in this process on the CPU; what is made up is that it holds a GPU.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from jobs.check import load
from jobs.errors import ExitCode, Interrupted
from jobs.limits import HOUR, Limits
from jobs.segment import run_job
from jobs.stopping import Stop
from pipeline import tables
from pipeline.engine import IN_FLIGHT
from pipeline.storage import Store
from pipeline.verify import Outcome, verify
from pipeline.worker import Worker
from tests.tiny import pictures

BUDGET = 0.05
"""Seconds of one GPU."""
PATIENCE = 300.0
"""Seconds that something may take on a machine with much else to do."""


@pytest.fixture
def job(tmp_path: Path, weights: Path) -> Path:
    pictures(tmp_path / "in", 22)
    spec = {
        "kind": "segment",
        "name": "budgeted",
        "input": {"uri": str(tmp_path / "in")},
        "model": {"weights": str(weights)},
        "output": {"uri": str(tmp_path / "out")},
        "shards": {"images": 4},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def run(job: Path, *settings: str) -> dict[str, Any]:
    return run_job(load(job, settings), local=True, console=Console(quiet=True))


def budgeted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From here on this process holds a GPU, and the budget is reached in the midst of the first shards.

    Returns the shards, as they are begun.
    """
    begun: list[str] = []
    in_work, reached = threading.Event(), threading.Event()
    watch, after, ask, process = Limits.watch, Limits.after, Stop.ask, Worker.process

    def told(stop: Stop, reason: Any, *, patient: bool = False) -> None:
        assert in_work.wait(PATIENCE), "no shards were begun"
        ask(stop, reason, patient=patient)
        reached.set()

    def held(worker: Worker, shard: str) -> Any:
        begun.append(shard)
        if len(begun) >= IN_FLIGHT:
            in_work.set()
        assert reached.wait(PATIENCE), "the budget was never reached"
        return process(worker, shard)

    monkeypatch.setattr(Limits, "watch", lambda limits, stop, _: watch(limits, stop, 1))
    monkeypatch.setattr(Limits, "after", lambda limits, tally, _: after(limits, tally, 1))
    monkeypatch.setattr(Stop, "ask", told)
    monkeypatch.setattr(Worker, "process", held)
    return begun


def test_a_budget_ends_a_job_at_the_end_of_shards_and_a_higher_one_takes_it_on(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job, f"output.uri={tmp_path / 'undisturbed'}")
    begun = budgeted(monkeypatch)
    with pytest.raises(Interrupted, match=r"has taken its max_gpu_hours, .* higher max_gpu_hours") as ended:
        run(job, f"max_gpu_hours={BUDGET / HOUR}")
    assert ended.value.code == ExitCode.LIMIT
    store = Store.open(str(tmp_path / "out"))
    # What was in work was done and committed as a whole; nothing was begun any more.
    assert len(begun) == IN_FLIGHT
    assert sorted(tables.open(store.uri).shards) == sorted(begun)
    checked = verify(store, full=True)
    assert (checked.outcome, checked.findings) == (Outcome.INCOMPLETE, [])
    assert {info.key for info in store.list("_attempts/")} == set()
    assert not any(info.key in ("summary.json", "report.html") for info in store.list())

    with pytest.raises(Interrupted, match="earlier runs took") as refused:
        run(job, "max_gpu_hours=1e-9")
    assert refused.value.code == ExitCode.LIMIT
    assert len(begun) == IN_FLIGHT

    accounts = run(job, "max_gpu_hours=1")
    assert (accounts["images"], accounts["shards"]) == (24, 6)
    assert len(begun) == len(set(begun)) == 6, "no shard was done twice"
    assert verify(store, full=True).outcome is Outcome.GOOD
    for name in ("images", "instances"):
        mine, theirs = (
            tables.canonical(getattr(tables.open(str(tmp_path / out)), name)())
            for out in ("out", "undisturbed")
        )
        assert mine.num_rows > 20
        assert mine.equals(theirs)
