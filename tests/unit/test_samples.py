"""Training input from COCO sources: one list of images, whose classes are counted alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.check import load_text
from jobs.segment import run_job
from pipeline import tables
from pipeline.samples import SampleError, Samples, SampleSource, held_out
from tests.made import made_output
from tests.tiny import encoded, picture, tiny_weights

POLYGON = [[10.0, 10.0, 30.0, 10.0, 30.0, 40.0]]


def source(folder: Path, categories: dict[int, str], count: int = 2, **fields) -> SampleSource:
    """`count` images of 96 x 128, each with an instance of every category."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations = []
    for n in range(count):
        (folder / f"{n}.png").write_bytes(encoded(picture(n)))
        annotations += [
            {"id": 1, "image_id": n, "category_id": c, "bbox": [10, 10, 20, 30], "segmentation": POLYGON}
            | fields
            for c in categories
        ]
    images = [{"id": n, "file_name": f"{n}.png", "height": 96, "width": 128} for n in range(count)]
    listed = [{"id": number, "name": name} for number, name in categories.items()]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "categories": listed, "annotations": annotations}))
    return SampleSource(str(path), str(folder))


def test_classes_of_several_sources_are_counted_as_one(tmp_path: Path) -> None:
    samples = Samples([source(tmp_path / "a", {1: "leaf", 2: "tree"}), source(tmp_path / "b", {1: "tree"})])
    assert samples.classes == ("leaf", "tree")
    assert len(samples) == 4
    assert samples.instances == 6
    assert [m.category for m in samples[0].instances] == [0, 1]
    assert [m.category for m in samples[3].instances] == [1]
    np.testing.assert_array_equal(samples[1].image, picture(1))


def test_classes_asked_for_are_the_only_ones(tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf", 2: "tree"})
    samples = Samples([made], ["stone", "tree"])
    assert [[m.category for m in samples[n].instances] for n in (0, 1)] == [[1], [1]]
    with pytest.raises(SampleError, match="no instance of stone"):
        Samples([made], ["stone"])


def test_of_a_source_of_boxes_no_mask_is_told(tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf"})
    alone = Samples([SampleSource(made.labels, made.images, boxes_only=True)])
    assert Samples([made]).has_masks
    assert not alone.has_masks
    assert alone[0].instances[0].mask.all()
    assert not Samples([made])[0].instances[0].mask.all()


def test_annotations_without_masks_are_boxes(tmp_path: Path) -> None:
    assert not Samples([source(tmp_path, {1: "leaf"}, segmentation=[])]).has_masks


def test_images_kept_in_memory_are_bounded(tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf"}, count=3)
    samples = Samples([made], cache_bytes=2 * 96 * 128 * 3)
    for n in range(3):
        assert samples[n].image.shape == (96, 128, 3)
    for n in range(3):
        (tmp_path / f"{n}.png").unlink()
    assert samples[1].image.shape == samples[2].image.shape == (96, 128, 3)
    with pytest.raises(SampleError, match=r"0\.png: there is no such image"):
        samples[0]


def test_an_image_by_its_base_name(tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf"}, count=1)
    truth = json.loads(Path(made.labels).read_text())
    truth["images"][0]["file_name"] = "somewhere/else/0.png"
    Path(made.labels).write_text(json.dumps(truth))
    assert Samples([made])[0].image.shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t["images"][0].update(width=99), "its annotations say 99x96"),
        (lambda t: t["images"][0].update(file_name="gone.png"), "there is no such image"),
        (lambda t: t.pop("categories"), "not COCO annotations"),
        (lambda t: t["annotations"][0].update(category_id=7), "category 7 is not listed"),
        (lambda t: t["annotations"][0].update(segmentation=[["a"] * 6]), "bad segmentation"),
    ],
)
def test_faults_are_named(change, expected: str, tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf"}, count=1)
    truth = json.loads(Path(made.labels).read_text())
    change(truth)
    Path(made.labels).write_text(json.dumps(truth))
    with pytest.raises(SampleError, match=expected):
        Samples([made])[0]


@pytest.mark.parametrize("name", ["a/../", "..", "a\nb"])
def test_a_name_that_cannot_be_asked_for_is_that_images_fault(name: str, tmp_path: Path) -> None:
    made = source(tmp_path, {1: "leaf"}, count=1)
    truth = json.loads(Path(made.labels).read_text())
    truth["images"][0]["file_name"] = name
    Path(made.labels).write_text(json.dumps(truth))
    with pytest.raises(SampleError, match="so there can be no such image"):
        Samples([made])[0]


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(SampleError, match=r"t\.json: not JSON"):
        Samples([SampleSource(str(tmp_path / "t.json"), str(tmp_path))])
    with pytest.raises(SampleError, match=r"none\.json: there is no such file"):
        Samples([SampleSource(str(tmp_path / "none.json"), str(tmp_path))])


def test_a_jobs_tables_are_labels(tmp_path: Path) -> None:
    output = made_output(str(tmp_path / "out"), tmp_path / "in", 12)
    run = tables.open(output.uri)
    samples = Samples([SampleSource(output.uri, str(tmp_path / "in"), run=True)])
    rows = run.instances().to_pylist()
    assert samples.classes == ("plant", "stone", "roof")
    assert samples.instances == len(rows)
    assert len(samples) == sum(r["status"] in ("ok", "empty") for r in run.images().to_pylist())
    assert samples.has_masks
    truths = {truth.file_name: truth for _, truth in samples._items}
    for row in rows:
        found = [m for m in truths[row["image_id"]].instances if m.counts == row["mask"]["counts"]]
        assert found
        assert samples.classes[found[0].category] == row["category"]
        assert np.array_equal(found[0].mask, tables.crop(row))
    sure = Samples([SampleSource(output.uri, str(tmp_path / "in"), run=True, min_score=0.5)])
    assert sure.instances == sum(row["score"] >= 0.5 for row in rows) < len(rows)
    assert sure.digests != samples.digests


def segmented(folder: Path, inputs: object) -> str:
    """A finished job over photos; returns its output."""
    spec = {
        "kind": "segment",
        "name": "tiny",
        "input": inputs,
        "model": {"weights": str(tiny_weights(folder)), "score_threshold": 0.3},
        "output": {"uri": str(folder / "masks")},
    }
    run_job(load_text(json.dumps(spec), "spec.yaml"), local=True)
    return str(folder / "masks")


def test_of_an_object_that_changed_the_last_version_counts(tmp_path: Path) -> None:
    photos, inputs = tmp_path / "photos", {"uri": str(tmp_path / "photos"), "mode": "new"}
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(encoded(picture(number)))
    segmented(tmp_path, inputs)
    (photos / "1.png").write_bytes(encoded(picture(7, 80, 112)))
    job = segmented(tmp_path, inputs)
    ids = tables.open(job).images(["image_id"])["image_id"].to_pylist()
    assert len(ids) == 4
    samples = Samples([SampleSource(job, str(photos), run=True)])
    assert sorted(samples[n].image.shape[:2] for n in range(3)) == [(80, 112), (96, 128), (96, 128)]
    assert len(samples) == 3
    moved = shutil.copytree(photos, tmp_path / "moved")
    again = Samples([SampleSource(job, str(moved), run=True)])
    assert sorted(truth.file_name for _, truth in again._items) == ["0.png", "1.png", "2.png"]
    assert [again[n].image.shape for n in range(3)] == [samples[n].image.shape for n in range(3)]
    (photos / "2.png").write_bytes(encoded(picture(8)) + b"more")
    changed = Samples([SampleSource(job, str(photos), run=True)])
    [number] = [n for n, (_, truth) in enumerate(changed._items) if truth.file_name == "2.png"]
    with pytest.raises(SampleError, match=r"2\.png: has changed since the job read it \(etag "):
        changed[number]


def test_images_of_named_inputs_are_found(tmp_path: Path) -> None:
    names = ("north", "south")
    for number, name in enumerate(names):
        (tmp_path / "photos" / f"in-{name}").mkdir(parents=True)
        (tmp_path / "photos" / f"in-{name}" / "a.png").write_bytes(encoded(picture(number)))
    job = segmented(tmp_path, [{"uri": f"{tmp_path}/photos/in-{name}", "name": name} for name in names])
    samples = Samples([SampleSource(job, str(tmp_path / "photos"), run=True)])
    assert [truth.file_name for _, truth in samples._items] == ["in-north/a.png", "in-south/a.png"]
    for number in range(2):
        np.testing.assert_array_equal(samples[number].image, picture(number))


def test_where_no_job_ran_is_told(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="holds no segment job"):
        Samples([SampleSource(str(tmp_path), str(tmp_path), run=True)])


def labels(folder: Path, name: str, images: Path, below: str, numbers: range, of: int = 1) -> SampleSource:
    """A json about some of the images of `source`, named from `images` on, each with `of` instances."""
    listed = [{"id": n, "file_name": f"{below}{n}.png", "height": 96, "width": 128} for n in numbers]
    annotations = [
        {"id": 1, "image_id": n, "category_id": 1, "bbox": [10, 10, 20, 30], "segmentation": POLYGON}
        for n in numbers
        for _ in range(of)
    ]
    said = {"images": listed, "categories": [{"id": 1, "name": "leaf"}], "annotations": annotations}
    (folder / name).write_text(json.dumps(said))
    return SampleSource(str(folder / name), str(images))


def test_corrected_labels_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    old = source(tmp_path / "photos", {1: "leaf"}, 4)
    new = labels(tmp_path, "new.json", tmp_path, "photos/", range(2, 5), of=3)
    samples = Samples([old, replace(new, replaces=True)])
    assert samples.counts == (2, 3)
    assert samples.instances == 2 + 9
    assert samples.replaced == {(old.labels, new.labels): 2}
    assert not samples.shared
    both = Samples([old, new])
    assert both.counts == (4, 3)
    assert both.shared == {(old.labels, new.labels): [f"{tmp_path}/photos/{n}.png" for n in (2, 3)]}
    assert not both.replaced


def test_an_image_that_one_source_holds_out_is_held_out_of_all(tmp_path: Path) -> None:
    near = source(tmp_path / "photos", {1: "leaf"}, 40)
    far = labels(tmp_path, "far.json", tmp_path, "photos/", range(40))
    samples = Samples([near, far], hold=0.3)
    places = [{f"{s.uri}/{t.file_name}" for s, t in rows} for rows in (samples.held, samples._items)]
    assert places[0]
    assert places[0].isdisjoint(places[1])
    assert len(samples.held) == 2 * len(places[0])
    assert "held out" in samples.digests
    assert "held out" not in Samples([near], hold=0.3).digests


def test_an_image_held_out_stays_so_when_others_come(tmp_path: Path) -> None:
    few, many = source(tmp_path / "few", {1: "leaf"}, 20), source(tmp_path / "many", {1: "leaf"}, 40)
    a, b = (Samples([s], hold=0.3) for s in (few, many))
    names = [[t.file_name for _, t in s.held] for s in (a, b)]
    assert names[0] == [n for n in names[1] if int(n.removesuffix(".png")) < 20]
    assert len(a) + len(a.held) == 20
    assert a.counts == (len(a),)
    assert {t.file_name for _, t in a._items}.isdisjoint(names[0])
    share = sum(held_out(f"{n}.jpg", 0.3) for n in range(2000)) / 2000
    assert 0.25 < share < 0.35
