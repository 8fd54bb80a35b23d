"""A window that kills whoever reads it costs itself: its raster keeps the others, the job its rasters."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import tables
from pipeline.care import GIVEN_UP_AFTER
from pipeline.ledger import Ledger
from pipeline.tiled.settings import Tiling
from pipeline.verify import Outcome, verify
from tests.integration.test_tiled_s3 import on_ray
from tests.poisons import DEADLY_PIXEL, plant
from tests.rasters import terrain, write_raster
from tests.tiled import TiledJob, local, tiled_job

ROOT = Path(__file__).parents[2]
SIDE = 96
DEADLY = f"deadly.tif:{SIDE},0"

STITCHED = """
import json, os, pickle, sys
from pathlib import Path
from pipeline.engine import run_local
from pipeline.tiled import together, worker

settings, shards = pickle.loads(Path(sys.argv[1]).read_bytes())

class Deadly(together.Stitcher):
    def add(self, window, found):
        os.kill(os.getpid(), 9)

together.Stitcher = Deadly
codes = []
while len(codes) < 30 and (not codes or codes[-1]):
    run = os.fork()
    if not run:
        errors = []
        run_local(settings, shards, on_result=lambda result: errors.append(result.error))
        Path(sys.argv[2]).write_text(json.dumps(errors))
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]))
print(json.dumps(codes))
"""
"""Runs the second stage until it ends, its process killed at the first window that is stitched."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rasters of three windows each; the second window of one kills its reader."""
    path = tmp_path / "in"
    path.mkdir()
    for seed, name in enumerate(("deadly.tif", "well.tif")):
        bands = terrain(3, SIDE, 3 * SIDE, seed=seed)
        if name == "deadly.tif":
            bands[:, 0, SIDE] = DEADLY_PIXEL
        write_raster(path / name, bands)
    return path


def job_in(folder: Path, output: Path, weights: Path) -> TiledJob:
    return tiled_job(folder, output, weights, 3, Tiling(size=SIDE, overlap=0), batch_images=1)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_ray_hands_out_a_shard_of_windows_until_the_culprit_is_found(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    undisturbed = job_in(folder, tmp_path / "undisturbed", weights)
    undisturbed.do(local)  # nothing is planted in this process
    job = job_in(folder, tmp_path / "out", weights)
    path = os.pathsep.join([str(plant(tmp_path)), str(ROOT)])
    job.settings = replace(job.settings, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    job.do(on_ray(1))
    windows = tables.open(job.windows.uri).images().to_pylist()
    failed = {row["image_id"]: row["error"] for row in windows if row["status"] not in ("ok", "empty")}
    assert failed == {DEADLY: "decoding killed its process (SIGSEGV)"}
    images = {row["image_id"]: row for row in job.run.images().to_pylist()}
    assert images["deadly.tif"]["error"].startswith("1 of 3 windows were not segmented, the first failed: ")
    assert images["well.tif"]["error"] is None
    mine, theirs = (tables.open(at.windows.uri).instances().to_pylist() for at in (job, undisturbed))
    assert mine == [row for row in theirs if row["image_id"] != DEADLY]
    assert len(mine) < len(theirs)
    for store in (job.store, job.windows):
        assert verify(store, full=True).outcome is Outcome.GOOD
    assert len(list(job.windows.list("_poison/"))) == 1


@pytest.mark.timeout(300)
def test_a_stitch_shard_that_kills_its_process_is_given_up(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    """As one that takes more memory than there is: each run of the job dies of it, and the last says so."""
    job = job_in(folder, tmp_path / "out", weights)
    assert job.plan.windows is not None
    local(job.settings.of_windows(), job.plan.windows.shard_ids())
    (shard, *_) = shards = job.plan.shard_ids()[:1]
    work, said = tmp_path / "work", tmp_path / "said"
    work.write_bytes(pickle.dumps((job.settings.of_stitching(), shards)))
    command = [sys.executable, "-c", STITCHED, str(work), str(said)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [-9] * GIVEN_UP_AFTER + [0]
    (error,) = json.loads(said.read_text())
    assert error.startswith(f"ShardGivenUp: 12 attempts at shard {shard} began and did not end")
    assert Ledger(job.store).pending([job.plan]) == job.plan.shard_ids()
