"""`condinst train` as a user runs it: on generated scenes, and an example on real photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.scenes.dataset import write_dataset
from tests.command import condinst

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train-kernels.yaml"
FEW_STEPS = ("--set", "training.steps=2", "--set", "training.checkpoint_steps=2")


def test_weights_that_train_made_predict(tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", range(2), 160)
    write_dataset(tmp_path / "val", range(2), 160)
    source = "{uri: scenes/images, annotations: scenes/truth.json}"
    val = "{uri: val/images, annotations: val/truth.json}"
    text = EXAMPLE.read_text()
    begin, end = text.index("data:"), text.index("model:")
    spec = tmp_path / "train.yaml"
    spec.write_text(f"{text[:begin]}data:\n  train: {source}\n  val: {val}\n{text[end:]}")
    done = condinst("train", spec, *FEW_STEPS, "--set", "batch=2", "--set", "augment.size=96", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weights = tmp_path / "work" / "train-kernels" / "best.safetensors"
    assert str(weights) in done.stdout
    image = next((tmp_path / "scenes" / "images").iterdir())
    predicted = condinst("predict", image, "--weights", weights, cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    again = condinst("train", spec, *FEW_STEPS, cwd=tmp_path)
    assert again.returncode == 5
    assert "holds a training of another spec" in again.stderr
    assert "batch: 2 -> 8" in again.stderr


def test_workers_find_what_lies_in_relative_folders(tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", range(2), 160)
    write_dataset(tmp_path / "val", range(2), 160)
    source = "{uri: scenes/images, annotations: scenes/truth.json}"
    val = "{uri: val/images, annotations: val/truth.json}"
    text = EXAMPLE.read_text()
    begin, end = text.index("data:"), text.index("model:")
    spec = tmp_path / "train.yaml"
    spec.write_text(f"{text[:begin]}data:\n  train: {source}\n  val: {val}\n{text[end:]}")
    small = ("--set", "batch=2", "--set", "augment.size=96", "--set", "workers={count: 2}")
    done = condinst("train", spec, *FEW_STEPS, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "train-kernels" / "summary.json").is_file()


def test_the_example_runs_on_real_photographs(data_dir: Path, tmp_path: Path) -> None:
    if not (data_dir / "maize-kernels").is_dir():
        pytest.skip(f"{data_dir} has no maize-kernels")
    spec = tmp_path / "train.yaml"
    spec.write_text(EXAMPLE.read_text().replace("../shared/data", str(data_dir)))
    done = condinst("train", spec, *FEW_STEPS, "--set", "batch=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work" / "train-kernels" / "curves.png").is_file()


def test_a_fault_is_told_by_its_place(tmp_path: Path) -> None:
    spec = tmp_path / "train.yaml"
    spec.write_text(EXAMPLE.read_text().replace("steps: 1200", "steps: many"))
    done = condinst("train", spec, cwd=tmp_path)
    assert done.returncode == 2
    assert "training.steps: the text 'many' was given; expected a whole number, at least 1" in done.stderr
