"""Which images are chosen for labelling, why, and in what form they leave."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from jobs.errors import JobError
from jobs.selection import select_images
from jobs.worth import Found, density, disagreement, seams, uncertainty
from pipeline import tables
from pipeline.samples import Samples, SampleSource
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.settings import Tiling
from tests.made import edit, made_output, rewrite
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
        select_images(plain.uri, 2, ["seams"], str(tmp_path / "to"), NO, console=QUIET)


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
    best, second = select(ours, theirs, tmp_path)[:2]
    assert best.score > 0
    assert second.score == 0
    assert best.image["image_id"] in {row["image_id"] for row in image}


def select(ours: Store, theirs: Store, folder: Path):
    return select_images(
        ours.uri, 3, ["disagreement"], str(folder / "to"), NO, against=theirs.uri, console=QUIET
    )


def test_label_studio_tasks_have_the_outlines(tmp_path: Path) -> None:
    store = output(tmp_path)
    select_images(store.uri, 2, ["density"], str(tmp_path / "to"), NO, label_studio=True, console=QUIET)
    tasks = json.loads((tmp_path / "to/selection.json").read_text())
    assert len(tasks) == 2
    view = ElementTree.fromstring((tmp_path / "to/selection.xml").read_text())
    polygons = view.find("PolygonLabels")
    assert polygons is not None
    assert {"plant", "roof"} <= {label.get("value") for label in polygons}
    for task in tasks:
        controls = {(r["from_name"], r["to_name"]) for r in task["predictions"][0]["result"]}
        assert controls == {(polygons.get("name"), polygons.get("toName"))}, "the interface knows the regions"
        regions = task["predictions"][0]["result"]
        assert regions
        points = np.array([p for region in regions for p in region["value"]["points"]])
        assert points.min() >= 0
        assert points.max() <= 100
        assert {label for r in regions for label in r["value"]["polygonlabels"]} <= {"plant", "stone", "roof"}


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="needs a second run"):
        select_images(output(tmp_path).uri, 2, ["disagreement"], str(tmp_path / "to"), NO, console=QUIET)
    with pytest.raises(JobError, match="holds no job"):
        select_images(str(tmp_path / "none"), 2, ["density"], str(tmp_path / "to"), NO, console=QUIET)
