"""The scheduler's processes: killed between a run's time and its start, and as people start and stop it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.schedule_state import Run, ScheduleState
from pipeline import tables
from tests.integration.nodes import BIN
from tests.tiny import pictures, tiny_weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
IMAGES = 6

DRIVER = """
import os, signal, sys
from datetime import datetime, timedelta, UTC
from pathlib import Path
from jobs.schedule import Scheduler
from jobs.schedule_runners import LocalRunner
from jobs.schedule_serve import read_entries
from jobs.schedule_state import ScheduleState

class Dying(LocalRunner):
    def start(self, entry, run):
        if sys.argv[3] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        place = super().start(entry, run)
        if sys.argv[3] == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return place

state = ScheduleState(Path(sys.argv[2]))
scheduler = Scheduler(state, Dying(state))
begin = datetime(2026, 10, 25, 0, 29, 30, tzinfo=UTC)
scheduler.serve(read_entries([Path(sys.argv[1])]), begin)
for seconds in range(0, 120, 5):
    scheduler.tick(begin + timedelta(seconds=seconds))
"""


def scheduled(folder: Path, cron: str) -> Path:
    """A small job on a schedule."""
    pictures(folder / "photos", IMAGES - 2)
    tiny_weights(folder)
    spec = {
        "kind": "segment",
        "name": "nightly",
        "input": {"uri": str(folder / "photos")},
        "model": {"weights": str(folder / "tiny-0.safetensors"), "score_threshold": 0.5, "max_instances": 10},
        "output": {"uri": str(folder / "out")},
        "schedule": {"cron": cron, "timezone": "Europe/Berlin"},
    }
    path = folder / "nightly.yaml"
    path.write_text(json.dumps(spec))
    return path


def environment(folder: Path) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    short = Path("/tmp") / f"rs-{os.getpid()}"
    short.mkdir(exist_ok=True)
    ray = {"RAY_TMPDIR": str(short), "RAY_AUTH_MODE": "disabled"}
    return {**os.environ, **ray, "PYTHONPATH": root, "COLUMNS": "200"}


def ended(state: ScheduleState) -> Run:
    """The only run, once its process has said how it ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        runs = state.runs("nightly")
        if runs and runs[0].code is not None:
            return runs[0]
        time.sleep(0.3)
    raise AssertionError("no run has ended")


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_the_time_and_the_start(tmp_path: Path, when: str) -> None:
    spec, file = scheduled(tmp_path, "30 2 * * *"), tmp_path / "state" / "s.sqlite"
    command = [sys.executable, "-c", DRIVER, str(spec), str(file)]
    killed = subprocess.run([*command, when], env=environment(tmp_path), timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    state = ScheduleState(file)
    assert state.runs("nightly")[0].state in ("due", "running")
    subprocess.run([*command, "never"], env=environment(tmp_path), timeout=100, check=True)
    run = ended(state)
    assert (run.code, run.attempt) == (0, 1)
    log = next(file.parent.rglob("*.log")).read_text()
    assert log.count("listing the input") == 1, "begun once"
    assert "20261025T003000Z" in str(next(file.parent.rglob("*.log")))
    subprocess.run([*command, "never"], env=environment(tmp_path), timeout=100, check=True)
    assert [run.state for run in state.runs("nightly")] == ["done"]
    assert tables.open(str(tmp_path / "out")).images().num_rows == IMAGES


def test_served_killed_and_served_again(tmp_path: Path) -> None:
    spec, file = scheduled(tmp_path, "* * * * *"), tmp_path / "s.sqlite"
    serve = [BIN / "condinst", "schedule", "serve", spec, "--state", file]
    first = subprocess.Popen(serve, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    state = waited_for(file)
    refused = subprocess.run(serve, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (refused.returncode, "another scheduler serves" in refused.stderr) == (5, True), refused.stderr
    deadline = time.monotonic() + 100
    while not (begun := state.runs("nightly", ("running",))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    spec.write_text(spec.read_text().replace("* * * * *", "0 3 1 1 *"))
    assert ended(state).code == 0, "the run outlives the scheduler"
    second = subprocess.Popen(serve, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    while state.runs("nightly", ("running",)):
        assert time.monotonic() < deadline + 100
        time.sleep(0.2)
    second.send_signal(signal.SIGTERM)
    assert "nightly: done" in second.communicate(timeout=60)[0]
    assert second.returncode == 0
    listing = [BIN / "condinst", "schedule", "list", "--state", file]
    shown = subprocess.run(listing, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert re.search(r"\d{4}-01-01 03:00 Europe/Berlin", shown.stdout), shown.stdout + shown.stderr
    found = json.loads(
        subprocess.run([*listing, "--json"], env=environment(tmp_path), capture_output=True, text=True).stdout
    )
    assert [(run["state"], run["fire"]) for run in found[0]["runs"]] == [("done", begun[0].fire.isoformat())]


def waited_for(file: Path) -> ScheduleState:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    return ScheduleState(file)
