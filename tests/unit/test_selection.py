"""Which images are chosen for labelling, why, and in what form they leave."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from condinst import rle
from condinst.evaluate import load_truth
from jobs.errors import JobError
from jobs.import_labels import import_labels
from jobs.selection import select_images
from jobs.worth import Found, density, disagreement, seams, uncertainty
from pipeline import tables
from pipeline.labels import read_coco
from pipeline.samples import Samples, SampleSource
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.settings import Tiling
from tests.made import SIZE, edit, made_output, rewrite
from tests.rasters import terrain, write_raster
from tests.tiled import tiled_job
from tests.tiny import tiny_weights

NO = StoreOptions()
QUIET = Console(quiet=True)


def found(*rows: tuple[float, float, float, str]) -> Found:
    """Boxes of 10 x 10 at x, y with a score and a class."""
    boxes = np.array([(x, y, x + 10, y + 10) for x, y, _, _ in rows], float).reshape(-1, 4)
    return Found(boxes, np.array([r[2] for r in rows]), np.array([r[3] for r in rows], object))


def test_the_undecided_are_uncertain() -> None:
    assert uncertainty(found((0, 0, 0.5, "a"))) == 1
    assert uncertainty(found((0, 0, 1.0, "a"), (0, 0, 0.75, "a"))) == pytest.approx(0.25)
    assert uncertainty(found()) == 0


def test_density_grows_to_one() -> None:
    assert density(found()) == 0
    assert density(found(*[(0, 0, 1, "a")] * 100)) == 0.5


def test_runs_that_find_the_same_agree() -> None:
    ours = found((0, 0, 0.9, "a"), (50, 50, 0.8, "b"))
    assert disagreement(ours, ours) == 0
    assert disagreement(ours, found((1, 1, 0.1, "a"), (51, 50, 0.1, "b"))) == 0
    assert disagreement(ours, found((0, 0, 0.9, "b"), (50, 50, 0.8, "a"))) == 1
    assert disagreement(ours, found((0, 0, 0.9, "a"))) == pytest.approx(1 / 3)
    assert disagreement(ours, found()) == 1
    assert disagreement(found(), found()) == 0


def test_what_lies_along_a_border_between_windows_counts() -> None:
    borders = np.array([[100, 0, 100, 300]])
    along = (found((95, 0, 1, "a")), found((130, 0, 1, "a")), found((60, 50, 1, "a")))
    apart = (found((133, 0, 1, "a")), found((50, 0, 1, "a")))
    assert [seams(replace(f, borders=borders)) for f in (*along, *apart)] == [1, 1, 1, 0, 0]
    both = found((95, 0, 1, "a"), (200, 0, 1, "a"))
    assert seams(replace(both, borders=borders)) == 0.5
    assert seams(both) == seams(found()) == 0


def test_of_a_tiled_run_the_rasters_with_most_at_seams_are_chosen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, width in (("cut", 320), ("whole", 96)):
        write_raster(tmp_path / "in" / f"{name}.tif", terrain(3, 96, width))
    (tmp_path / "in" / "broken.tif").write_bytes(b"II*\0")
    job = tiled_job(tmp_path / "in", tmp_path / "out", tiny_weights(tmp_path), 9, Tiling(size=96, overlap=32))
    job.do()
    chosen = select_images(job.store.uri, 2, ["seams"], str(tmp_path / "to"), NO, console=QUIET)
    assert [c.image["image_id"] for c in chosen] == ["cut.tif", "whole.tif"]
    assert chosen[0].score > chosen[1].score == 0
    plain = made_output(str(tmp_path / "plain"), tmp_path / "other", 4)
    with pytest.raises(JobError, match="no tiled job's output, so it has no seams"):
        select_images(plain.uri, 2, ["seams"], str(tmp_path / "more"), NO, console=QUIET)


def test_an_instance_matches_once() -> None:
    twice = found((0, 0, 0.9, "a"), (1, 0, 0.8, "a"))
    assert disagreement(twice, found((0, 0, 0.9, "a"))) == pytest.approx(1 / 3)


def output(folder: Path, name: str = "out") -> Store:
    return made_output(str(folder / name), folder / "in", 12)


def test_the_selection_is_the_best_and_a_source_of_labels(tmp_path: Path) -> None:
    store = output(tmp_path)
    chosen = select_images(store.uri, 4, ["uncertainty"], str(tmp_path / "to"), NO, console=QUIET)
    run = tables.open(store.uri)
    rows = run.instances().to_pylist()
    scores = {
        image["image_id"]: [r["score"] for r in rows if r["image_id"] == image["image_id"]]
        for image in run.images().to_pylist()
        if image["status"] in ("ok", "empty")
    }
    worth = {name: uncertainty(found(*[(0, 0, s, "a") for s in own])) for name, own in scores.items()}
    best = sorted(worth.values(), reverse=True)[:4]
    assert [c.score for c in chosen] == pytest.approx(best)
    assert [worth[c.image["image_id"]] for c in chosen] == pytest.approx(best)
    listed = list(csv.DictReader(io.StringIO((tmp_path / "to/selection.csv").read_text())))
    assert [row["image_id"] for row in listed] == [c.image["image_id"] for c in chosen]
    samples = Samples([SampleSource(str(tmp_path / "to/selection.json"), str(tmp_path / "in"))])
    assert samples.instances == sum(len(scores[c.image["image_id"]]) for c in chosen)
    assert {t.file_name for _, t in samples._items} == {c.image["image_id"] for c in chosen}
    for _, truth in samples._items:
        own = [r for r in rows if r["image_id"] == truth.file_name]
        for mask in truth.instances:
            assert any(np.array_equal(mask.mask, tables.crop(r)) for r in own if r["area"] == mask.mask.sum())


def test_where_two_runs_differ_is_chosen_first(tmp_path: Path) -> None:
    ours, theirs = output(tmp_path), output(tmp_path, "other")
    assert select(ours, theirs, tmp_path)[0].score == 0
    shard = tables.open(theirs.uri).shards[1]
    rewrite(theirs, shard, "instances", edit(0, category="roof", category_id=2))
    image = tables.open(theirs.uri).instances().to_pylist()
    best, second = select(ours, theirs, tmp_path / "again")[:2]
    assert best.score > 0
    assert second.score == 0
    assert best.image["image_id"] in {row["image_id"] for row in image}


def select(ours: Store, theirs: Store, folder: Path):
    return select_images(
        ours.uri, 3, ["disagreement"], str(folder / "to"), NO, against=theirs.uri, console=QUIET
    )


def test_label_studio_tasks_have_outlines_and_brush_masks(tmp_path: Path) -> None:
    store = output(tmp_path)
    make_whole(store)
    select_images(store.uri, 2, ["density"], str(tmp_path / "to"), NO, label_studio=True, console=QUIET)
    tasks = json.loads((tmp_path / "to/selection.json").read_text())
    assert len(tasks) == 2
    view = ElementTree.fromstring((tmp_path / "to/selection.xml").read_text())
    polygons = view.find("PolygonLabels")
    assert polygons is not None
    assert {"plant", "roof"} <= {label.get("value") for label in polygons}
    regions = [region for task in tasks for region in task["predictions"][0]["result"]]
    known = {(control.get("name"), control.get("toName")) for control in view if control.tag != "Image"}
    assert {(r["from_name"], r["to_name"]) for r in regions} == known, "the interface knows the regions"
    drawn = [r["value"] for r in regions if r["type"] == "polygonlabels"]
    points = np.array([p for value in drawn for p in value["points"]])
    assert points.min() >= 0
    assert points.max() <= 100
    assert {r["value"][r["type"]][0] for r in regions} <= {"plant", "stone", "roof"}


def make_whole(store: Store) -> None:
    """Make the first instance of each shard a rectangle; made masks are noise, full of holes."""
    for shard in tables.open(store.uri).shards:
        rewrite(store, shard, "instances", edit(0, mask=rectangle, area=lambda _: 60))


def rectangle(mask: dict[str, Any]) -> dict[str, Any]:
    return {**mask, "height": 6, "width": 10, "counts": rle.encode(np.ones((6, 10), bool))}


def test_what_label_studio_is_given_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    store = output(tmp_path)
    two = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 1]], bool)
    parted = {"x": 5, "y": 7, "height": 3, "width": 4, "counts": rle.encode(two)}
    rewrite(store, tables.open(store.uri).shards[0], "instances", edit(0, mask=parted, area=6))
    select_images(store.uri, 12, ["density"], str(tmp_path / "to"), NO, label_studio=True, console=QUIET)
    import_labels(str(tmp_path / "to/selection.json"), tmp_path / "truth.json", True, QUIET)
    truth = load_truth(json.loads((tmp_path / "truth.json").read_text()))
    rows = tables.open(store.uri).instances().to_pylist()
    found = truth.dataset["annotations"]
    assert len(found) == len(rows), "an instance in parts is one"
    ours = {(r["image_id"], r["category"], frame(r).tobytes()) for r in rows}
    assert ours == {
        (
            truth.imgs[a["image_id"]]["file_name"],
            truth.cats[a["category_id"]]["name"],
            truth.annToMask(a).astype(bool).tobytes(),
        )
        for a in found
    }


def frame(row: dict[str, Any]) -> np.ndarray:
    m, whole = row["mask"], np.zeros(SIZE, bool)
    whole[m["y"] : m["y"] + m["height"], m["x"] : m["x"] + m["width"]] = tables.crop(row)
    return whole


@pytest.mark.parametrize("all_of_them", [False, True])
def test_where_everything_was_deleted_an_image_without_instances_comes_back(
    tmp_path: Path, all_of_them: bool
) -> None:
    store = output(tmp_path)
    select_images(store.uri, 2, ["density"], str(tmp_path / "to"), NO, label_studio=True, console=QUIET)
    first, second = json.loads((tmp_path / "to/selection.json").read_text())
    first["annotations"] = [{"result": []}]
    second["annotations"] = [{"result": [] if all_of_them else second["predictions"][0]["result"]}]
    (tmp_path / "done.json").write_text(json.dumps([first, second]))
    import_labels(str(tmp_path / "done.json"), tmp_path / "truth.json", console=QUIET)
    empty, other = read_coco(str(tmp_path / "truth.json"), NO).images
    assert (empty.file_name, empty.height, empty.width) == (first["data"]["image_id"], *SIZE)
    assert empty.instances == ()
    assert bool(other.instances) is not all_of_them


def test_masks_that_no_brush_holds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = output(tmp_path)
    monkeypatch.setattr("pipeline.export.labelstudio.MOST_PIXELS", 100)
    said = Console(file=io.StringIO(), width=200)
    select_images(store.uri, 12, ["density"], str(tmp_path / "to"), NO, label_studio=True, console=said)
    assert isinstance(said.file, io.StringIO)
    assert (
        "instances with holes or parts on images too large for a brush mask: left out" in said.file.getvalue()
    )


@pytest.mark.parametrize("label_studio", [False, True])
def test_a_selection_that_people_may_have_edited_is_not_written_over(
    tmp_path: Path, label_studio: bool
) -> None:
    store, to = output(tmp_path), str(tmp_path / "to")
    select_images(store.uri, 2, ["density"], to, NO, label_studio=label_studio, console=QUIET)
    (tmp_path / "to/selection.json").write_text("corrected")
    before = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    with pytest.raises(JobError, match=r"to/selection\.json is there already.*name a new folder with --to"):
        select_images(store.uri, 3, ["density"], to, NO, label_studio=label_studio, console=QUIET)
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == before


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="needs a second run"):
        select_images(output(tmp_path).uri, 2, ["disagreement"], str(tmp_path / "to"), NO, console=QUIET)
    with pytest.raises(JobError, match="holds no job"):
        select_images(str(tmp_path / "none"), 2, ["density"], str(tmp_path / "to"), NO, console=QUIET)
