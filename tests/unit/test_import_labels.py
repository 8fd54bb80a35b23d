"""Label Studio and back: what it can hold comes back pixel for pixel; what it cannot is counted."""

from __future__ import annotations

import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from rich.console import Console

from condinst import rle
from condinst.evaluate import load_truth
from jobs.errors import JobError
from jobs.import_labels import import_labels
from pipeline.commit import public_key
from pipeline.export.brush import BrushError, decode_brush, encode_brush
from pipeline.export.labelstudio import interface, write_labelstudio
from pipeline.export.selection import Selection
from pipeline.geo.polygons import pixel_polygons
from pipeline.samples import Samples, SampleSource
from pipeline.tables import Run, crop
from tests.made import NAMES, SIZE, edit, made_output, plan_of, rewrite
from tests.rasters import blobs

REFERENCE = [0, 0, 0, 96, 57, 27, 254, 27, 0, 191, 255, 56, 5, 255, 252, 46, 1, 31, 248]
"""`label_studio_sdk.converter.brush.encode_rle` 2.1.2 of the mask below, as RGBA."""
MASK = np.zeros((4, 6), bool)
MASK[1:3, 1:5] = True
MASK[3, 5] = True


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def told(labels: Path, to: Path, predictions: bool = False) -> str:
    console = Console(file=StringIO(), width=200)
    import_labels(str(labels), to, predictions, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def solid(mask: dict[str, Any]) -> dict[str, Any]:
    return {**mask, "counts": rle.encode(np.ones((mask["height"], mask["width"]), bool))}


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    """The made masks are noise, full of holes; the first of each shard is made whole."""
    store = made_output(str(tmp_path / "out"), tmp_path / "in", images=22)
    for shard in plan_of(store).shard_ids():
        table = pq.read_table(BytesIO(store.get(public_key("instances", shard))))
        mask = table["mask"][0].as_py()
        rewrite(store, shard, "instances", edit(0, mask=solid, area=mask["height"] * mask["width"]))
    run = Run(store)
    done = write_labelstudio(run, Selection(), tmp_path / "ls.json")
    tasks = json.loads((tmp_path / "ls.json").read_text())
    kinds = {region["type"] for task in tasks for region in task["predictions"][0]["result"]}
    assert kinds == {"polygonlabels", "brushlabels"}
    assert len(tasks) == done.images == run.images(filter=pc.field("width").is_valid()).num_rows
    told(tmp_path / "ls.json", tmp_path / "truth.json", predictions=True)
    truth = load_truth(read(tmp_path / "truth.json"))
    rows = run.instances().to_pylist()
    assert len(truth.dataset["annotations"]) == len(rows)
    for row, annotation in zip(rows, truth.dataset["annotations"], strict=True):
        frame, m = np.zeros(SIZE, bool), row["mask"]
        frame[m["y"] : m["y"] + m["height"], m["x"] : m["x"] + m["width"]] = crop(row)
        assert (truth.annToMask(annotation) == frame).all()
        assert annotation["area"] == row["area"]
        assert truth.cats[annotation["category_id"]]["name"] == row["category"]
        assert truth.imgs[annotation["image_id"]]["file_name"] == row["image_id"]
    samples = Samples([SampleSource(str(tmp_path / "truth.json"), str(tmp_path))])
    assert samples.has_masks
    assert samples.instances == len(rows)


def test_scores_and_addresses_are_in_the_tasks(tmp_path: Path) -> None:
    run = Run(made_output(str(tmp_path / "out"), tmp_path / "in"))
    write_labelstudio(run, Selection(), tmp_path / "ls.json", "https://images/a b/")
    tasks = json.loads((tmp_path / "ls.json").read_text())
    scores = [region["score"] for task in tasks for region in task["predictions"][0]["result"]]
    assert scores == run.instances()["score"].to_pylist()
    assert tasks[0]["data"] == {
        "image": "https://images/a b/000.png", "image_id": "000.png", "width": 80, "height": 60,
    }  # fmt: skip
    labels = ElementTree.parse(tmp_path / "ls.xml").getroot()
    assert [label.get("value") for label in labels.findall("PolygonLabels/Label")] == list(NAMES)
    odd = ElementTree.fromstring(interface(['a & "b" <']))
    assert [label.get("value") for label in odd.iter("Label")] == ['a & "b" <'] * 2


def test_a_brush_is_the_one_that_label_studio_writes_and_reads() -> None:
    assert (decode_brush(REFERENCE, 4, 6) == MASK).all()
    ours = encode_brush(MASK[1:], 0, 1, 4, 6)
    assert (decode_brush(ours, 4, 6) == MASK).all()


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 150), st.integers(0, 150),
)  # fmt: skip
def test_any_mask_goes_through_a_brush(mask: Any, x: int, y: int, right: int, bottom: int) -> None:
    height, width = y + mask.shape[0] + bottom, x + mask.shape[1] + right
    frame = np.zeros((height, width), bool)
    frame[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    assert (decode_brush(encode_brush(mask, x, y, height, width), height, width) == frame).all()


@given(st.lists(st.integers(0, 255), max_size=60))
def test_damaged_brushes_are_refused_or_are_masks(data: list[int]) -> None:
    for bytes_ in (data, [0, 0, 0, 96, 58, 38, 127, *data], [*REFERENCE[:9], *data]):
        try:
            assert decode_brush(bytes_, 4, 6).shape == (4, 6)
        except BrushError:
            continue


def test_polygons_are_the_masks_of_objects_of_a_hundred_pixels_and_more() -> None:
    """In the rasteriser that COCO's programs use: of the outlines that exports write."""
    masks = blobs(60, 500, 500, seed=3)
    shapes = pixel_polygons(masks)
    assert (masks.area > 100).sum() > 30
    for n, shape in enumerate(shapes):
        if masks.area[n] <= 100 or shape.geom_type != "Polygon" or len(shape.interiors):
            continue
        ring = np.array(shape.exterior.coords)[:-1]
        drawn = coco_mask.merge(coco_mask.frPyObjects([ring.ravel().tolist()], 500, 500))
        place = (int(v[n]) for v in (masks.x, masks.y, masks.height, masks.width))
        wanted = {"size": [500, 500], "counts": rle.embed(masks.counts[n], *place, 500, 500)}
        assert coco_mask.iou([drawn], [wanted], [0])[0, 0] > 0.98


def region(kind: str = "polygonlabels", **more: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], kind: ["plant"]}
    made = {"type": kind, "original_width": 6, "original_height": 4, "image_rotation": 0, "value": value}
    value.update(more.pop("value", {}))
    return {**made, **more}


def task(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"data": {"image": "/data/upload/1/ab-x.png"}, "annotations": [{"result": list(regions)}], **more}


def test_what_people_drew_is_taken_and_the_rest_counted(tmp_path: Path) -> None:
    brush = region("brushlabels", value={"rle": REFERENCE, "brushlabels": ["stone"]})
    box = region("rectanglelabels", value={"x": 50, "y": 25, "width": 25, "height": 50})
    labels = [
        task(region(), brush, box),
        {**task(), "data": {"image": "https://ls/data/local-files/?d=fields/b%20c.png"}},
        task(
            region(value={"polygonlabels": []}),
            region("ellipselabels"),
            region(image_rotation=90),
            region(value={"points": [[0, 0], [1, 1]]}),
            region(value={"points": [[0, 0], [1, 0], [1, 1]]}),
            region("brushlabels", value={"rle": [1, 2], "brushlabels": ["stone"]}),
        ),
        {"data": {"image": "y.png"}, "annotations": []},
        {"nothing": 1},
        {
            "data": {"image": "z.png"},
            "annotations": [
                {
                    "result": [region(value={"polygonlabels": ["newest"]})],
                    "updated_at": "2026-02-01T00:00:00Z",
                },
                {
                    "result": [region(value={"polygonlabels": ["older"]})],
                    "updated_at": "2026-01-01T00:00:00Z",
                },
                {"result": [region(value={"polygonlabels": ["taken back"]})], "was_cancelled": True},
            ],
        },
    ]
    (tmp_path / "ls.json").write_text(json.dumps(labels))
    said = told(tmp_path / "ls.json", tmp_path / "truth.json")
    truth = load_truth(read(tmp_path / "truth.json"))
    assert [image["file_name"] for image in truth.dataset["images"]] == ["ab-x.png", "ab-x.png", "z.png"]
    assert [category["name"] for category in truth.dataset["categories"]] == ["plant", "stone", "newest"]
    polygon, brushed, boxed, newest = truth.dataset["annotations"]
    assert truth.annToMask(polygon).sum() == polygon["area"] == 6
    assert (truth.annToMask(brushed) == MASK).all()
    assert (boxed["bbox"], boxed["category_id"], "segmentation" in boxed) == ([3.0, 1.0, 1.5, 2.0], 1, False)
    assert newest["category_id"] == 3
    for what in (
        "1 regions left out: without a label",
        "1 regions left out: of type ellipselabels",
        "1 regions left out: turned ones",
        "1 regions left out: polygons of fewer than three corners",
        "1 regions left out: without a pixel in the image",
        "1 regions left out: damaged brush masks",
        "1 tasks left out: nobody annotated them",
        "1 tasks left out: without a region nothing says how large the image is",
        "1 tasks left out: not Label Studio's form",
    ):
        assert what in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("{}", "a list of tasks"),
        ("[]", "no label that a COCO truth can hold"),
        ('[{"data": {"image": "a"}, "annotations": [7]}]', "not Label Studio's form"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(JobError, match=said):
        import_labels(str(tmp_path / "x.json"), tmp_path / "truth.json")
    with pytest.raises(JobError, match="No such file"):
        import_labels(str(tmp_path / "none.json"), tmp_path / "truth.json")
    assert not (tmp_path / "truth.json").exists()
