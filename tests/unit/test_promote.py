"""A model is promoted when it is better beyond chance, and only then."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from condinst import weights
from condinst.finetune import with_classes
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
    some, _ = with_classes(model, ("tree", "plant"))
    weights.save(some, folder / "some.safetensors")
    model.head.controller.weight.data.mul_(0.8)
    weights.save(model, folder / "fair.safetensors")
    model.head.controller.weight.data.mul_(0.75)
    weights.save(model, folder / "bad.safetensors", notes={"trained_by": "bad"})
    for name, classes in (
        ("renamed", ("shrub", "tree", "roof", "vehicle")),
        ("other", ("a", "b", "c", "d")),
    ):
        model.config = model.config.model_copy(update={"classes": classes})
        weights.save(model, folder / f"{name}.safetensors")
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


def test_who_beats_an_old_version_must_beat_the_current_one_too(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, "bad")
    run(scenes, tmp_path, "good")
    old = str(tmp_path / "fields/versions/000001.safetensors")
    code, said = run(scenes, tmp_path, "fair", against=old)
    assert code == ExitCode.NOT_BETTER
    assert current(tmp_path)["version"] == 2
    assert (said.count("95% interval [+"), said.count("95% interval [-")) == (1, 1)
    assert "is not the current version, 2, which must be beaten, too" in said
    assert "it would take the place of version 2; `condinst rollback fields --to VERSION` goes back" in said


def test_who_beats_both_is_promoted_and_says_so(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, "bad")
    code, said = run(scenes, tmp_path, "good", against=str(scenes / "fair.safetensors"))
    assert code == ExitCode.DONE, said
    record = json.loads((tmp_path / "fields/versions/000002.json").read_text())
    assert record["against"].endswith("fair.safetensors")
    assert record["current"]["against"].endswith("versions/000001.safetensors")
    assert record["current"]["comparison"]["low"] > record["comparison"]["low"] > 0
    why = json.loads((tmp_path / "fields/moves/000002.json").read_text())["why"]
    assert why.count(" against ") == 2


def test_the_current_version_by_another_name_is_compared_with_once(scenes: Path, tmp_path: Path) -> None:
    run(scenes, tmp_path, "bad")
    code, said = run(scenes, tmp_path, "good", against=str(tmp_path / "fields/current.json"))
    assert (code, said.count("interval [")) == (ExitCode.DONE, 1)


def truth_without(scenes: Path, to: Path, *names: str) -> str:
    """The truth with these categories gone."""
    truth = json.loads((scenes / "truth.json").read_text())
    gone = {c["id"] for c in truth["categories"] if c["name"] in names}
    truth["categories"] = [c for c in truth["categories"] if c["id"] not in gone]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] not in gone]
    to.write_text(json.dumps(truth))
    return str(to)


def test_a_class_of_the_new_one_that_the_truth_lacks_is_refused(scenes: Path, tmp_path: Path) -> None:
    truth = truth_without(scenes, tmp_path / "truth.json", "vehicle")
    with pytest.raises(JobError) as told:
        run(scenes, tmp_path, "good", truth=truth)
    said = str(told.value)
    assert f"good.safetensors: its class 'vehicle' is not among the categories of {truth}, 'plant'" in said
    assert "--on" in said
    assert "--rename" not in said
    data = json.loads(Path(truth).read_text())
    data["categories"].append({"id": 99, "name": "vehicle"})
    Path(truth).write_text(json.dumps(data))
    assert run(scenes, tmp_path, "good", truth=truth)[0] == ExitCode.DONE


def test_an_old_one_with_a_class_more_than_the_truth_is_measured_in_the_others(
    scenes: Path, tmp_path: Path
) -> None:
    truth = truth_without(scenes, tmp_path / "truth.json", "roof", "vehicle")
    bad = str(scenes / "bad.safetensors")
    code, said = run(scenes, tmp_path, "some", truth=truth, against=bad)
    assert code == ExitCode.DONE, said
    assert "bad.safetensors has the classes 'roof', 'vehicle', which the truth lacks: not measured" in said
    assert "left out" not in said


def test_what_an_old_one_calls_otherwise_is_left_out_and_not_counted_as_missed(
    scenes: Path, tmp_path: Path
) -> None:
    renamed = str(scenes / "renamed.safetensors")
    code, said = run(scenes, tmp_path, "bad", against=renamed)
    assert code == ExitCode.NOT_BETTER, "they are one model"
    assert "+0.0000" in said
    assert "it has none for 'plant': left out of the comparison" in said
    with pytest.raises(JobError, match=r"none of its classes, 'a', 'b', 'c', 'd', is among .*another --name"):
        run(scenes, tmp_path, "good", against=str(scenes / "other.safetensors"))
    code, said = run(scenes, tmp_path, "good", against=renamed)
    assert code == ExitCode.DONE, said
    few = json.loads((scenes / "truth.json").read_text())
    shown = {image["id"] for image in few["images"][:3]}
    plants = {c["id"] for c in few["categories"] if c["name"] == "plant"}
    few["annotations"] = [
        a for a in few["annotations"] if a["image_id"] in shown or a["category_id"] in plants
    ]
    (tmp_path / "few.json").write_text(json.dumps(few))
    with pytest.raises(JobError, match=r"[1-3] of its images have instances of the classes of .*renamed"):
        run(scenes, tmp_path, "good", against=renamed, truth=str(tmp_path / "few.json"), min_images=4)


def test_a_class_that_the_new_one_dropped_counts_against_it(scenes: Path, tmp_path: Path) -> None:
    code, said = run(scenes, tmp_path, "some", against=str(scenes / "good.safetensors"))
    assert code == ExitCode.NOT_BETTER
    assert "some.safetensors has no class for 'roof', 'vehicle': nothing of it is found" in said


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
