"""The comparison as people get it: a page, JSON, a table; and the same of a truth."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console

from condinst import rle
from jobs import confusion as confusions
from jobs import diff as diffs
from jobs.check import load
from jobs.confusion_count import NOTHING
from jobs.cutout import AFTER, Cutouts
from jobs.errors import JobError
from jobs.segment import run_job
from pipeline.diff import Tolerance
from pipeline.export.selection import Selection
from pipeline.filtering import filter_run
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run, crop
from tests.made import NAMES, SIZE, made_output, rewrite
from tests.tiny import pictures, tiny_weights


class Page(HTMLParser):
    """Collects what a page fetches, and checks that its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.alts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img":
            self.alts.append(values["alt"] or "")
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def compare(before: Run, after: Run, to: Path, **how: Any) -> tuple[dict[str, Any], str]:
    console = Console(file=io.StringIO(), width=200)
    request = diffs.Request(before.store.uri, after.store.uri, to, **how)
    diffs.diff_runs(request, console)
    return json.loads((to / "diff.json").read_text()), str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(made_output(str(tmp_path / "out"), tmp_path / "in", images=22))


def test_a_run_with_itself_is_said_to_be_the_same(run: Run, tmp_path: Path) -> None:
    said, printed = compare(run, run, tmp_path / "d")
    assert said["empty"] is True
    assert said["largest"] == said["settings"] == []
    assert pq.read_table(tmp_path / "d" / "differences.parquet").num_rows == 0
    assert "the runs say the same: 22 images" in printed
    assert "The runs say the same." in (tmp_path / "d" / "diff.html").read_text()


def test_every_difference_is_in_the_table_and_the_largest_are_drawn(run: Run, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "sure"))
    filter_run(run, target, Selection(min_score=0.6))
    said, printed = compare(run, Run(target), tmp_path / "d")
    gone = [row for row in run.instances().to_pylist() if row["score"] < 0.6]
    rows = pq.read_table(tmp_path / "d" / "differences.parquet").to_pylist()
    assert [(row["image_id"], row["instance_id_before"], row["kind"]) for row in rows] == [
        (row["image_id"], row["instance_id"], "lost") for row in gone
    ]
    assert said["instances"]["lost"] == len(gone)
    assert f"{len(gone)} lost" in printed
    for group in ("by_class", "by_size"):
        assert sum(counts["lost"] for counts in said[group].values()) == len(gone)
    assert said["settings"][0].startswith("filtered: the default")
    largest = sorted((row["area"] for row in gone), reverse=True)[: diffs.LARGEST]
    assert [row["pixels"] for row in said["largest"]] == largest
    page = Page((tmp_path / "d" / "diff.html").read_text())
    assert len(page.alts) == len(largest)
    assert page.alts[0].startswith(f"lost, {largest[0]} pixels")
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)


def test_names_from_outside_are_text(run: Run, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>.png"

    def renamed(table: pa.Table) -> pa.Table:
        ids = [evil if name == "000.png" else name for name in table["image_id"].to_pylist()]
        return table.set_column(0, table.schema.field("image_id"), pa.array(ids, pa.string()))

    for name in ("images", "instances"):
        rewrite(run.store, "0000-000000", name, renamed)
    again = Run(run.store)
    target = Store.open(str(tmp_path / "none"))
    filter_run(again, target, Selection(min_score=1.0))
    compare(again, Run(target), tmp_path / "d")
    page = (tmp_path / "d" / "diff.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_two_thresholds_of_a_model_differ_by_what_lies_between(tmp_path: Path) -> None:
    """Two real jobs: the model is run at both thresholds."""
    weights, images = tiny_weights(tmp_path), pictures(tmp_path / "images", 4)
    runs = []
    for threshold in (0.8, 0.9):
        spec = tmp_path / f"{threshold}.yaml"
        spec.write_text(
            json.dumps(
                {
                    "kind": "segment",
                    "name": "tiny",
                    "input": {"uri": str(images)},
                    "model": {"weights": str(weights), "score_threshold": threshold, "max_instances": 1000},
                    "output": {"uri": str(tmp_path / f"masks-{threshold}")},
                }
            )
        )
        run_job(load(spec), local=True, console=Console(file=io.StringIO()))
        runs.append(Run(Store.open(str(tmp_path / f"masks-{threshold}"))))
    said, _ = compare(*runs, tmp_path / "d")
    between = [row for row in runs[0].instances().to_pylist() if row["score"] < 0.9]
    assert 0 < len(between) < runs[0].instances().num_rows
    rows = pq.read_table(tmp_path / "d" / "differences.parquet").to_pylist()
    assert {(row["image_id"], row["instance_id_before"]) for row in rows} == {
        (row["image_id"], row["instance_id"]) for row in between
    }
    assert {row["kind"] for row in rows} == {"lost"}
    assert said["settings"] == ["detect.score_threshold: 0.8 -> 0.9"]
    same, _ = compare(runs[0], runs[0], tmp_path / "same")
    assert same["empty"]


def test_a_cutout_shows_the_image_around_the_outline(tmp_path: Path) -> None:
    pixels = np.full((80, 100, 3), (10, 200, 10), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    mask = {"x": 40, "y": 30, "height": 10, "width": 20, "counts": rle.encode(np.ones((10, 20), bool))}
    row = {"mask": mask, "area": 200}
    made = Cutouts(StoreOptions())
    shown = np.asarray(Image.open(io.BytesIO(made.jpeg(str(tmp_path / "x.png"), (80, 100), [(row, AFTER)]))))
    assert max(shown.shape) == 320
    assert np.abs(shown[3, 3].astype(int) - (10, 200, 10)).max() < 20
    blue = (np.abs(shown.astype(int) - AFTER).sum(axis=2) < 120).sum()
    assert blue > 400
    for uri in (str(tmp_path / "gone.png"), None):
        grey = np.asarray(Image.open(io.BytesIO(made.jpeg(uri, (80, 100), [(row, AFTER)]))))
        assert np.abs(grey[3, 3].astype(int) - 128).max() < 10


def truth_of(run: Run, path: Path, boxes: bool = False) -> dict[str, Any]:
    """The run's own instances as truth; every fourth is called another class, every fifth moved away."""
    images = [
        {"id": n, "file_name": row["image_id"], "height": SIZE[0], "width": SIZE[1]}
        for n, row in enumerate(run.images(["image_id"]).to_pylist())
    ]
    number = {image["file_name"]: image["id"] for image in images}
    annotations = []
    for at, row in enumerate(run.instances().to_pylist()):
        frame, m = np.zeros(SIZE, bool), row["mask"]
        frame[m["y"] : m["y"] + m["height"], m["x"] : m["x"] + m["width"]] = crop(row)
        if at % 5 == 4:
            frame = np.zeros(SIZE, bool)
            frame[:2, :2] = True
        encoded = coco_mask.encode(np.asfortranarray(frame.astype(np.uint8)))
        category = row["category_id"] if at % 4 else row["category_id"] % len(NAMES) + 1
        shape = {} if boxes else {"segmentation": {**encoded, "counts": encoded["counts"].decode()}}
        box = list(row["bbox"].values()) if boxes and at % 5 < 4 else coco_mask.toBbox(encoded).tolist()
        annotations.append(
            {"id": at + 1, "image_id": number[row["image_id"]], "category_id": category, "bbox": box, **shape}
        )
    extra = {"id": len(images), "file_name": "unseen.png", "height": SIZE[0], "width": SIZE[1]}
    annotations.append({**annotations[0], "id": 10_000, "image_id": extra["id"]})
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    said = {"images": [*images, extra], "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(said))
    return said


@pytest.mark.parametrize("boxes", [False, True])
def test_confusion_counts_what_is_taken_for_what(run: Run, tmp_path: Path, boxes: bool) -> None:
    truth = truth_of(run, tmp_path / "truth.json", boxes)
    console = Console(file=io.StringIO(), width=200)
    request = confusions.Request(
        run.store.uri, str(tmp_path / "truth.json"), tmp_path / "c", min_score=0, iou=0.99
    )
    confusions.confusion(request, console)
    said = json.loads((tmp_path / "c" / "confusion.json").read_text())
    rows = run.instances().to_pylist()
    wanted: dict[tuple[str, str], int] = {}
    for at, row in enumerate(rows):
        name = NAMES[truth["annotations"][at]["category_id"] - 1]
        cells = [(name, row["category"])] if at % 5 < 4 else [(name, NOTHING), (NOTHING, row["category"])]
        for cell in cells:
            wanted[cell] = wanted.get(cell, 0) + 1
    unseen = (NAMES[truth["annotations"][0]["category_id"] - 1], NOTHING)
    wanted[unseen] = wanted.get(unseen, 0) + 1
    matrix = said["matrix"]
    assert {(t, f): n for t, found in matrix.items() for f, n in found.items() if n} == wanted
    assert said["true"] == len(rows) + 1
    assert said["found"] == len(rows)
    right = sum(n for (t, f), n in wanted.items() if t == f)
    assert sum(c["right"] for c in said["classes"].values()) == right
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{right} of {len(rows) + 1} instances" in told
    there = run.images().num_rows
    assert f"note: the run has {there} of the truth's {there + 1} images; in the others nothing" in told
    page = Page((tmp_path / "c" / "confusion.html").read_text())
    assert len(page.alts) == len(said["examples"]) > 6
    assert any(re.fullmatch(r"plant found as \(nothing\); \d+\.png", alt) for alt in page.alts)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)


def test_found_classes_that_the_truth_lacks_have_a_column_and_a_note(run: Run, tmp_path: Path) -> None:
    said = truth_of(run, tmp_path / "truth.json")
    said["categories"] = [{**c, "name": c["name"].replace("roof", "house")} for c in said["categories"]]
    (tmp_path / "truth.json").write_text(json.dumps(said))
    for renames, column in (((), "roof"), (("roof=house",), "house")):
        to, console = tmp_path / f"c-{column}", Console(file=io.StringIO(), width=200)
        request = confusions.Request(
            run.store.uri, str(tmp_path / "truth.json"), to, min_score=0, rename=renames
        )
        confusions.confusion(request, console)
        matrix = json.loads((to / "confusion.json").read_text())["matrix"]
        assert matrix["house"][column] > 0
        assert ("roof" in matrix["plant"]) == (column == "roof")
        told = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("note: the truth has no category roof" in told) == (column == "roof")


def test_a_truth_of_other_classes_alone_is_refused(run: Run, tmp_path: Path) -> None:
    said = truth_of(run, tmp_path / "truth.json")
    said["categories"] = [{**c, "name": f"no {c['name']}"} for c in said["categories"]]
    (tmp_path / "truth.json").write_text(json.dumps(said))
    request = confusions.Request(run.store.uri, str(tmp_path / "truth.json"), tmp_path / "c", min_score=0)
    with pytest.raises(JobError, match=r"class 'plant' is not among .* with --rename 'plant=\.\.\.'$"):
        confusions.confusion(request, Console(file=io.StringIO()))
    assert not (tmp_path / "c").exists()


def test_what_does_not_do_is_said(run: Run, tmp_path: Path) -> None:
    nowhere = Run(made_output(str(tmp_path / "b"), tmp_path / "in2"))
    with pytest.raises(JobError, match="holds no job"):
        diffs.diff_runs(diffs.Request(run.store.uri, str(tmp_path / "none"), tmp_path / "d"))
    with pytest.raises(JobError, match="class 'tree'"):
        compare(run, nowhere, tmp_path / "d", selection=Selection(classes=("tree",)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(JobError, match="holds something already"):
        compare(run, nowhere, tmp_path / "full", tolerance=Tolerance(0.4))
    assert not (tmp_path / "d").exists()
