"""The whole loop as a data team runs it: segment, choose, train with the labels, promote, segment anew."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from jobs.scenes.dataset import write_dataset
from tests import command
from tests.command import COMMAND

pytestmark = pytest.mark.cluster

SEGMENT = """\
kind: segment
name: fields
input: {uri: scenes/images}
model: {weights: WEIGHTS, score_threshold: 0.3}
output: {uri: OUTPUT}
"""
TRAIN = """\
kind: train
name: fields
data:
  train:
    - {uri: scenes/images, annotations: todo/selection.json, weight: 2}
    - {uri: scenes/images, run: masks, min_score: 0.5}
  held_out: 0.4
  classes: [plant, tree, roof, vehicle]
model: {weights: demo}
training: {steps: 2, checkpoint_steps: 1}
batch: 2
augment: {size: 128, copy_paste: 0.5}
output: {uri: trained}
"""


def condinst(*arguments: object, cwd: Path, code: int = 0) -> str:
    done = command.condinst(*arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_loop_closes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", range(100_000, 100_006), 192)
    (tmp_path / "run.yaml").write_text(SEGMENT.replace("WEIGHTS", "demo").replace("OUTPUT", "masks"))
    condinst("run", "run.yaml", "--local", cwd=tmp_path)
    said = condinst("select", "masks", "--count", 4, "--to", "todo", cwd=tmp_path)
    assert "4 of 6 images" in said
    (tmp_path / "train.yaml").write_text(TRAIN)
    said = condinst("train", "train.yaml", cwd=tmp_path)
    assert "keeps plant, tree, roof, vehicle" in said
    on = ("--on", "scenes/truth.json", "--images", "scenes/images", "--name", "fields", "--min-images", 6)
    said = condinst("promote", "demo", *on, cwd=tmp_path)
    assert "version 1 of fields" in said
    said = condinst("promote", "demo", *on, "--resamples", 100, cwd=tmp_path, code=10)
    assert "not promoted" in said
    current = json.loads((tmp_path / "models/fields/current.json").read_text())
    assert current["version"] == 1
    text = SEGMENT.replace("WEIGHTS", "models/fields/current.json").replace("OUTPUT", "again")
    (tmp_path / "again.yaml").write_text(text)
    condinst("run", "again.yaml", "--local", cwd=tmp_path)
    job = json.loads((tmp_path / "again" / "job.json").read_text())
    assert job["model_digest"] == current["sha256"]
    said = condinst("select", "masks", "--against", "again", "--by", "disagreement", cwd=tmp_path)
    assert "scores 0.000 to 0.000" in said
    assert "nothing was promoted" in bad(tmp_path)


def bad(folder: Path) -> str:
    done = subprocess.run(
        [COMMAND, "rollback", "other"], capture_output=True, text=True, cwd=folder, timeout=100
    )
    assert done.returncode == 2
    return done.stderr
