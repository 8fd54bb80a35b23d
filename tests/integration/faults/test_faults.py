"""A few jobs that meet every kind of fault, on real Ray and, where there is one, Ceph: each row once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults.schedule import Schedule
from tests.integration.faults.selection import MORE, QUICK, QUICK_PLANT, SEEN_BY

ROOT = Path(__file__).parents[3]


def play(flag: str, out: Path, count: int) -> dict[int, dict[str, Any]]:
    """What became of each schedule, by its seed. In a process of its own, with clusters of its own."""
    command = [sys.executable, "-m", "tests.integration.faults", flag, "--lanes", "2", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    assert len(lines) == count, done.stdout + done.stderr
    return {result["seed"]: result for result in map(json.loads, lines)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    return play("--quick", tmp_path_factory.mktemp("faults") / "results", len(QUICK) + 1)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    return play("--more", tmp_path_factory.mktemp("faults") / "more", len(MORE))


def is_well(schedule: Schedule, result: dict[str, Any]) -> None:
    if result["outcome"] == "skipped":
        pytest.skip(result["why"])
    assert (result["outcome"], result["why"]) == ("ok", "")
    assert len(result["struck"]) >= len(schedule.strikes) + len(schedule.rules), result["struck"]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("schedule", QUICK, ids=lambda schedule: f"seed {schedule.seed}")
def test_no_row_is_lost_or_doubled_or_other(schedule: Schedule, results: dict[int, dict[str, Any]]) -> None:
    is_well(schedule, results[schedule.seed])


@pytest.mark.cluster
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("schedule", MORE, ids=lambda schedule: f"seed {schedule.seed}")
def test_nor_by_what_takes_longer(schedule: Schedule, more: dict[int, dict[str, Any]]) -> None:
    is_well(schedule, more[schedule.seed])


@pytest.mark.timeout(1500)
def test_who_comes_back_after_its_shard_was_taken_is_refused(results: dict[int, dict[str, Any]]) -> None:
    assert any(
        results[schedule.seed]["refused"] and results[schedule.seed]["exits"] == [0, 0]
        for schedule in QUICK
        if any(strike.action == "freeze" for strike in schedule.strikes)
    )


@pytest.mark.timeout(1500)
def test_a_planted_bug_is_seen(results: dict[int, dict[str, Any]]) -> None:
    result = results[SEEN_BY[QUICK_PLANT].seed]
    assert result["plant"] == QUICK_PLANT
    assert result["outcome"] not in ("ok", "skipped")
    assert result["why"]
