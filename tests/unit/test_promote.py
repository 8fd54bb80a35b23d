"""A model is promoted when it is better beyond chance, and only then."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from condinst import weights
from jobs.errors import ExitCode, JobError
from jobs.promote import Request, promote, rollback
from jobs.scenes.dataset import write_dataset
from pipeline.storage import StoreOptions


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes with their truth; and the demo's weights, whole and with its last layer spoilt."""
    folder = tmp_path_factory.mktemp("promote")
    write_dataset(folder, range(100_000, 100_006), 192)
    model = weights.load_for_training("demo")
    weights.save(model, folder / "good.safetensors", notes={"trained_by": "good"})
    model.head.controller.weight.data.mul_(0.6)
    weights.save(model, folder / "bad.safetensors", notes={"trained_by": "bad"})
    return folder


def run(scenes: Path, models: Path, new: str, **more) -> tuple[ExitCode, str]:
    console = Console(file=io.StringIO(), width=200)
    usual = {"truth": str(scenes / "truth.json"), "min_images": 2}
    request = Request(
        new=str(scenes / f"{new}.safetensors"),
        images=str(scenes / "images"),
        models=str(models),
        name="fields",
        resamples=300,
        **usual | more,
    )
    code = promote(request, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def current(models: Path) -> dict:
    return json.loads((models / "fields/current.json").read_text())


def test_only_the_better_one_takes_the_place(scenes: Path, tmp_path: Path) -> None:
    code, said = run(scenes, tmp_path, "bad")
    assert (code, current(tmp_path)["version"]) == (ExitCode.DONE, 1)
    assert "no version yet" in said
    code, said = run(scenes, tmp_path, "good")
    assert code == ExitCode.DONE, said
    assert current(tmp_path)["version"] == 2
    assert "95% interval [+" in said
    record = json.loads((tmp_path / "fields/versions/000002.json").read_text())
    assert record["comparison"]["low"] > 0
    assert record["notes"]["trained_by"] == "good"
    code, said = run(scenes, tmp_path, "bad")
    assert code == ExitCode.NOT_BETTER
    assert "not promoted" in said
    assert current(tmp_path)["version"] == 2
    rollback(str(tmp_path), "fields", StoreOptions(), console=Console(quiet=True))
    assert current(tmp_path)["version"] == 1
    rollback(str(tmp_path), "fields", StoreOptions(), to=2, console=Console(quiet=True))
    assert current(tmp_path)["version"] == 2


def test_a_model_is_not_better_than_itself(scenes: Path, tmp_path: Path) -> None:
    code, _ = run(scenes, tmp_path, "good", against=str(scenes / "good.safetensors"))
    assert code == ExitCode.NOT_BETTER
    assert not (tmp_path / "fields").exists()


def test_a_dry_run_changes_nothing(scenes: Path, tmp_path: Path) -> None:
    code, said = run(scenes, tmp_path, "good", against=str(scenes / "bad.safetensors"), dry_run=True)
    assert code == ExitCode.DONE
    assert "would be promoted" in said
    assert not (tmp_path / "fields").exists()


def test_a_margin_asks_for_more(scenes: Path, tmp_path: Path) -> None:
    code, _ = run(scenes, tmp_path, "good", against=str(scenes / "bad.safetensors"), margin=0.9)
    assert code == ExitCode.NOT_BETTER


def test_what_few_images_say_promotes_nothing(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"6 of its images have instances; .* on 7 at least \(--min-images\)"):
        run(scenes, tmp_path, "good", min_images=7)
    crowds = json.loads((scenes / "truth.json").read_text())
    for annotation in crowds["annotations"][1:]:
        annotation["iscrowd"] = 1
    truth = tmp_path / "crowds.json"
    truth.write_text(json.dumps(crowds))
    with pytest.raises(JobError, match="1 of its images have instances"):
        run(scenes, tmp_path, "good", truth=str(truth))
    assert not (tmp_path / "fields").exists()


def test_current_json_that_stayed_behind_is_put_right(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, "good", min_images=6)
    (tmp_path / "fields/current.json").unlink()
    code, said = run(scenes, tmp_path, "good", against=str(scenes / "bad.safetensors"))
    assert code == ExitCode.DONE
    assert "current already" in said
    assert current(tmp_path)["version"] == 1


def test_a_truth_and_a_device_that_are_not_there_are_told(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobError, match=r"--on: there is no .*/none\.json"):
        run(scenes, tmp_path, "good", truth=str(tmp_path / "none.json"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(JobError, match="--device cuda: torch finds no CUDA device here"):
        run(scenes, tmp_path, "good", device="cuda")


def test_nothing_to_go_back_from_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nothing was promoted there"):
        rollback(str(tmp_path), "fields", StoreOptions())
