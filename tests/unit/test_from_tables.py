"""A job's rows against a truth: which image is which, and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from condinst.evaluate import load_truth
from jobs.categories import Categories
from jobs.check import load_text
from jobs.errors import JobError
from jobs.evaluate import Request, run_evaluation
from jobs.from_tables import coco_results, images_in_both
from jobs.segment import run_job
from pipeline import tables
from tests.tiny import CLASSES, encoded, picture, tiny_weights

NAMES = ("a/one.png", "b/one.png", "b/two.png", "three.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tables.Run:
    """A finished job over four images, two of them of one base name."""
    folder = tmp_path_factory.mktemp("job")
    for number, name in enumerate(NAMES):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    spec = {
        "input": f"{{uri: {folder / 'images'}}}",
        "model": f"{{weights: {tiny_weights(folder)}}}",
        "output": f"{{uri: {folder / 'masks'}}}",
    }
    text = "kind: segment\nname: tiny\n" + "".join(f"{key}: {value}\n" for key, value in spec.items())
    run_job(load_text(text, "spec"), local=True)
    return tables.open(str(folder / "masks"))


def truth(*names: str, width: int = 128, classes: tuple[str, ...] = CLASSES):
    images = [{"id": n, "file_name": name, "height": 96, "width": width} for n, name in enumerate(names)]
    categories = [{"id": n, "name": name} for n, name in enumerate(classes, start=1)]
    return load_truth({"images": images, "annotations": [], "categories": categories})


def matched(run: tables.Run, *names: str) -> dict[str, str]:
    return {ours: image["file_name"] for ours, image in images_in_both(run, truth(*names)).items()}


def test_an_image_is_found_by_its_id_or_by_its_base_name(run: tables.Run) -> None:
    assert matched(run, "three.png", "b/two.png") == {"three.png": "three.png", "b/two.png": "b/two.png"}
    assert matched(run, "val/three.png", "two.png") == {"three.png": "val/three.png", "b/two.png": "two.png"}
    assert matched(run, "a/one.png") == {"a/one.png": "a/one.png"}
    both = matched(run, "a/one.png", "b/one.png")
    assert both == {"a/one.png": "a/one.png", "b/one.png": "b/one.png"}


def test_an_image_that_could_be_either_is_refused(run: tables.Run) -> None:
    with pytest.raises(JobError, match=r"'a/one\.png' and 'b/one\.png' of .* both be the truth's 'one\.png'"):
        matched(run, "one.png", "three.png")


def test_truths_of_other_images_are_refused(run: tables.Run) -> None:
    with pytest.raises(JobError, match="share no image"):
        matched(run, "four.png")
    with pytest.raises(JobError, match=r"'three\.png' is 128x96, but the truth's 'three\.png' is 64x96"):
        images_in_both(run, truth("three.png", width=64))


def test_results_are_the_rows_on_the_truths_images(run: tables.Run) -> None:
    rows = [r for r in run.instances().to_pylist() if r["image_id"] in ("three.png", "b/two.png")]
    results = list(coco_results(run, truth("three.png", "two.png")))
    assert len(results) == len(rows) > 5
    assert sorted(r["score"] for r in results) == sorted(r["score"] for r in rows)
    assert {r["image_id"] for r in results} == {0, 1}
    assert all(r["category_id"] in (1, 2, 3) for r in results)
    assert all(r["segmentation"]["size"] == [96, 128] for r in results)


def written(run: tables.Run, folder: Path, *names: str) -> str:
    """A truth whose every image has the same one instance, which the run found in the first."""
    said = truth(*names).dataset
    found = next(row for row in run.instances().to_pylist() if row["image_id"] == names[0])
    kind = 1 + CLASSES.index(found["category"])
    box = {"category_id": kind, "bbox": list(found["bbox"].values()), "iscrowd": 0}
    boxes = [{**box, "id": n + 1, "image_id": image["id"]} for n, image in enumerate(said["images"])]
    (folder / "truth.json").write_text(json.dumps({**said, "annotations": boxes}))
    return str(folder / "truth.json")


def evaluated(request: Request, figures: Path) -> tuple[dict, str]:
    console = Console(file=io.StringIO(), width=200)
    run_evaluation(replace(request, json_file=figures), console)
    return json.loads(figures.read_text()), console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_measured_on_its_own_images_where_that_is_asked_for(run: tables.Run, tmp_path: Path) -> None:
    ours, figures = ("three.png", "b/two.png"), tmp_path / "figures.json"
    alone = Request(truth=written(run, tmp_path, *ours), output=run.store.uri)
    expected, said = evaluated(alone, figures)
    assert "note: the run has" not in said
    beside = replace(alone, truth=written(run, tmp_path, *ours, "x.png", "y.png", "z.png"))
    whole, said = evaluated(beside, figures)
    assert (whole["images"], whole["instances"], whole["truth_images"]) == (5, 5, 5)
    assert "the run has 2 of the truth's 5 images; in the others nothing is found; --only-run leaves" in said
    some, said = evaluated(replace(beside, only_run=True), figures)
    assert (some["images"], some["instances"], some["truth_images"]) == (2, 2, 5)
    assert "note: 2 of the truth's 5 images, those of the run, are measured" in said
    assert some["notes"] == ["2 of the truth's 5 images, those of the run, are measured"]
    assert "2 images, 2 instances in the truth" in said
    assert some["boxes"] == expected["boxes"]
    assert some["boxes"]["ar"] > whole["boxes"]["ar"]


def test_classes_that_the_truth_lacks(run: tables.Run) -> None:
    other = truth("three.png", "b/two.png", classes=("plant", "rock"))
    with pytest.raises(JobError, match="is not among the truth's categories, 'plant', 'rock'"):
        list(coco_results(run, other))
    renamed = Categories(other, {"stone": "rock", "roof": "rock"})
    assert {r["category_id"] for r in coco_results(run, other, renamed)} <= {1, 2}
    one = truth("three.png", classes=("thing",))
    agnostic = list(coco_results(run, one, Categories(one, class_agnostic=True)))
    assert {r["category_id"] for r in agnostic} == {1}
