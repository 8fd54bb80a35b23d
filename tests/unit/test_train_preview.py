"""`condinst plan` of a training."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs import train_preview
from jobs.check import load_text
from jobs.errors import JobError, Refused
from jobs.scenes.dataset import write_dataset
from jobs.train import train_job
from jobs.train_preview import preview_training
from jobs.train_spec import TrainSpec
from jobs.train_status import TrainingLook, look
from pipeline.storage import Store
from tests.unit.test_train import SMALL


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, range(4), 160)
    return folder


def spec_of(scenes: Path, output: Path, *sets: str) -> TrainSpec:
    return load_text(
        f"kind: train\nname: planned\n"
        f"data: {{train: {{uri: {scenes}/images, annotations: {scenes}/truth.json}}, held_out: 0.3}}\n"
        f"model:\n{SMALL}training: {{steps: 4, warmup_steps: 1, checkpoint_steps: 2}}\n"
        f"batch: 2\naugment: {{size: 96}}\nsamples: 0\noutput: {{uri: {output}}}\n",
        "spec.yaml",
        sets,
        TrainSpec,
    )


def planned(spec: TrainSpec, like: Path | None = None, check: bool = False) -> str:
    console = Console(file=io.StringIO(), width=300)
    preview_training(spec, console, like=like and str(like), check=check)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(said: str, heading: str) -> str:
    found = re.search(rf"^{heading} +(.*?) *$", said, re.MULTILINE)
    assert found, said
    return found[1]


def test_a_training_is_told_before_between_and_after(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = planned(spec_of(scenes, out))
    assert not out.exists(), "it writes nothing"
    learned, instances, named = re.match(  # type: ignore[union-attr]
        r"(\d) images, ([\d,]+) instances: (.*)", row(said, "learns from")
    ).groups()
    counts = [int(part.split()[0].replace(",", "")) for part in named.split(", ")]
    assert sum(counts) == int(instances.replace(",", ""))
    assert counts == sorted(counts, reverse=True)
    assert int(learned) + int(row(said, "measured on").split()[0]) == 4
    assert row(said, "steps") == f"4 of 2 views: {8 / int(learned):.1f} times through the images"
    assert row(said, "workers") == "this process, on cpu"
    assert "give a like training's output as --like" in row(said, "estimate")

    train_job(spec_of(scenes, out), Console(quiet=True))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said = planned(spec_of(scenes, out))
    assert "complete: a run would do nothing" in said
    assert "estimate" not in said
    with pytest.raises(Refused, match=r"seed: 0 -> 1"):
        planned(spec_of(scenes, out, "seed=1"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    other = planned(spec_of(scenes, tmp_path / "other", "training.steps=100"), like=out)
    assert f"images/s as in {out}" in row(other, "estimate")
    with pytest.raises(JobError, match=r"--like: .* holds no training"):
        planned(spec_of(scenes, tmp_path / "other"), like=tmp_path / "nothing")


def test_gpu_hours_and_their_price(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    train_job(spec_of(scenes, out), Console(quiet=True))

    def steady(store: Store) -> TrainingLook | None:
        seen = look(store)
        return None if seen is None else replace(seen, images_per_second=10.0)

    monkeypatch.setattr(train_preview, "look", steady)
    asked = (
        "training.steps=18000",
        "batch=4",
        "price_per_gpu_hour=3",
        "workers.count=4",
        "workers.gpus=1",
        "device=cuda",
    )
    said = row(planned(spec_of(scenes, tmp_path / "new", *asked), like=out), "estimate")
    assert ", 8.00 GPU hours, $24.00, at 10.0 images/s" in said
    said = planned(spec_of(scenes, tmp_path / "new", *asked, "max_gpu_hours=2"), like=out)
    assert "(more than max_gpu_hours, 2: it will stop there)" in row(said, "estimate")


def test_check_decodes_some_of_the_images(scenes: Path, tmp_path: Path) -> None:
    assert planned(spec_of(scenes, tmp_path / "out"), check=True).count("checked: 160 x 160, ") == 3
    elsewhere = spec_of(scenes, tmp_path / "out", f"data.train.uri={tmp_path}")
    with pytest.raises(JobError, match="none of the images"):
        planned(elsewhere, check=True)
    assert "learns from" in planned(elsewhere)


def test_a_segment_jobs_output_is_none_for_a_training(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(Refused, match="holds a segment job"):
        planned(spec_of(scenes, tmp_path))
