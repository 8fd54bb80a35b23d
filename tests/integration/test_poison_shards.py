"""Images that really kill their workers, on Ray and in one process: each costs itself and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.care import KILLED_IN_MODEL
from pipeline.decode import DecodeLimits
from pipeline.engine import run_local
from pipeline.verify import verify
from tests.job import Job, settings_of, start
from tests.poisons import DEADLY_SIZE, plant, poisoned
from tests.tiny import encoded, picture

ROOT = Path(__file__).parents[2]
IMAGES = 8
SHARD = 2
CRASH, OTHER = "00.png", "07.png"

FORKS = """
import json, os, pickle, sys
from pathlib import Path
import pipeline.worker
from pipeline.engine import run_local
from tests.job import start

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
codes = []
while not codes or codes[-1]:
    run = os.fork()
    if not run:
        run_local(settings, start(settings).pending, on_result=lambda _: None)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]))
print(json.dumps(codes))
"""
"""Runs a job in this process, but for its death: as often as it dies, and without loading torch each time."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards of two; the first image kills who decodes it."""
    path = tmp_path / "in"
    path.mkdir()
    for number in range(IMAGES):
        (path / f"{number:02d}.png").write_bytes(encoded(picture(number, 64, 96)))
    (path / CRASH).write_bytes(poisoned("segv"))
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where poison works, with a place for a Ray of this test's own."""
    ray = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    own = {"PYTHONPATH": str(plant(tmp_path)), "RAY_TMPDIR": ray, "RAY_AUTH_MODE": "disabled"}
    yield {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    shutil.rmtree(ray, ignore_errors=True)


def drive(job: Job, folder: Path, environment: dict[str, str], *command: str) -> str:
    """Run the job's pending shards in a driver of its own; returns what it prints."""
    (folder / "settings").write_bytes(pickle.dumps(job.settings))
    arguments = [sys.executable, *command[:2], str(folder / "settings"), *command[2:]]
    driver = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert driver.returncode == 0, driver.stderr
    return driver.stdout


def assert_rows(job: Job, fates: dict[str, str]) -> None:
    """Exactly these images failed, of what they do; all others have the rows of an undisturbed run."""
    undisturbed = start(replace(job.settings, output=f"{job.settings.output}-undisturbed"), SHARD)
    run_local(undisturbed.settings, undisturbed.pending, on_result=lambda _: None)
    assert job.run.complete
    images = job.run.images().to_pylist()
    assert {row["image_id"]: row["error"] for row in images if row["status"] == "failed"} == fates
    for mine, theirs in zip(job.rows(), undisturbed.rows(), strict=True):
        kept = [
            [row for row in table.to_pylist() if row["image_id"] not in fates] for table in (mine, theirs)
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) >= IMAGES - len(fates)
    assert verify(job.store).findings == []
    assert len(list(job.store.list("_poison/"))) == len(fates)


@pytest.mark.timeout(600)
def test_ray_hands_out_shards_until_each_culprit_is_found(
    folder: Path, weights: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (folder / OTHER).write_bytes(poisoned("hang holding the GIL"))
    output = str(tmp_path / "out")
    job = start(settings_of(str(folder), weights, output, limits=DecodeLimits(seconds=5)), SHARD)
    drive(job, tmp_path, environment, "-m", "tests.integration.driver", "1")
    fates = {
        CRASH: "decoding killed its process (SIGSEGV)",
        OTHER: "decoding did not end within 5 s",
    }
    assert_rows(job, fates)


@pytest.mark.timeout(600)
def test_in_one_process_each_death_is_the_runs_and_a_later_run_knows(
    folder: Path, weights: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Two runs die of decoding, and of an image that the model sees alone no more than three."""
    (folder / OTHER).write_bytes(encoded(picture(7, *DEADLY_SIZE)))
    job = start(settings_of(str(folder), weights, str(tmp_path / "out")), SHARD)
    codes = json.loads(drive(job, tmp_path, environment, "-c", FORKS))
    assert set(codes[:-1]) == {-signal.SIGSEGV}
    assert 4 <= len(codes) - 1 <= 2 + 2 + 3
    assert_rows(job, {CRASH: "decoding killed its process (SIGSEGV)", OTHER: KILLED_IN_MODEL})
