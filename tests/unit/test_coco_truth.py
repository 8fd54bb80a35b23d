"""COCO annotations become crop masks equal to what pycocotools decodes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from condinst.coco_truth import TruthError, read_truth, unlisted
from condinst.evaluate import load_truth
from jobs.errors import JobError
from jobs.truth import read_truth as read_exam
from pipeline.storage import StoreOptions

HEIGHT, WIDTH = 60, 80


def annotation(**fields) -> dict:
    return {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10.2, 20, 30, 15.9], "iscrowd": 0, **fields}


def coco(*annotations: dict) -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 9, "name": "tree"}, {"id": 5, "name": "leaf"}],
        "annotations": list(annotations),
    }


def full(instance) -> np.ndarray:
    out = np.zeros((HEIGHT, WIDTH), bool)
    h, w = instance.mask.shape
    out[instance.y : instance.y + h, instance.x : instance.x + w] = instance.mask
    return out


def segmentations() -> list:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:50, 9:33] = 1
    mask[20:30, 15:20] = 0
    compressed = coco_mask.encode(mask)
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return [
        compressed,
        {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": counts},
        [[5.0, 5, 40, 8, 33, 50.5], [60, 10, 79, 10, 70, 30]],
    ]


@pytest.mark.parametrize("segmentation", segmentations(), ids=["bytes", "text", "counts", "polygons"])
def test_every_form_of_segmentation(segmentation) -> None:
    given = annotation(segmentation=segmentation)
    names, [image] = read_truth(coco(given))
    expected = load_truth(coco(given)).annToMask(given).astype(bool)
    assert names == ("leaf", "tree")
    assert not image.boxes_only
    [instance] = image.instances
    assert instance.category == 0
    assert np.array_equal(full(instance), expected)
    assert instance.mask.any(0).all() or instance.mask.any(0)[[0, -1]].all()


def test_boxes_only() -> None:
    _, [image] = read_truth(coco(annotation(segmentation=[])))
    [instance] = image.instances
    assert image.boxes_only
    assert (instance.x, instance.y, *instance.mask.shape) == (10, 20, 16, 30)


def test_crowds_and_instances_outside_are_left_out() -> None:
    outside = annotation(segmentation=[], bbox=[100, 100, 5, 5])
    crowd = annotation(iscrowd=1, segmentation=[])
    _, [image] = read_truth(coco(outside, crowd))
    assert image.instances == ()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"category_id": 77, "segmentation": []}, "annotation 1: category 77"),
        ({"segmentation": {"size": [5, 5], "counts": "111"}}, "annotation 1: bad segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "annotation 1: bad segmentation"),
    ],
)
def test_broken_annotations_are_named(broken: dict, message: str) -> None:
    with pytest.raises(TruthError, match=message):
        read_truth(coco(annotation(**broken)))


def test_what_is_no_coco_file_is_refused() -> None:
    with pytest.raises(TruthError, match="not COCO"):
        read_truth({"images": []})


def test_real_sets_read(data_dir: Path) -> None:
    files = sorted(data_dir.glob("*/annotations/val.json"))
    assert files
    for file in files:
        dataset = json.loads(file.read_text())
        _, images = read_truth(dataset)
        assert sum(len(image.instances) for image in images) == len(dataset["annotations"])


HOSTILE = [float("nan"), float("inf"), 1e12, 1e8, -1e8, 10**400, "7", "x", None, True, [], {}]
NUMBERS = st.one_of(st.sampled_from(HOSTILE), st.integers(-90, 90), st.floats(-90, 90))
LISTS = st.lists(NUMBERS, max_size=9)
TEXTS = st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12)
SEGMENTATIONS = st.one_of(
    st.lists(LISTS, max_size=3),
    LISTS,
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([[HEIGHT, WIDTH], [HEIGHT], [-1, 5], None, [10**9, 10**9]]),
            "counts": st.one_of(LISTS, TEXTS, NUMBERS),
        }
    ),
)
ANNOTATIONS = st.fixed_dictionaries(
    {"id": NUMBERS, "image_id": st.just(1) | NUMBERS, "category_id": st.just(5) | NUMBERS},
    optional={"segmentation": SEGMENTATIONS, "bbox": LISTS | NUMBERS, "area": NUMBERS, "iscrowd": NUMBERS},
)


@settings(max_examples=150, deadline=None)
@given(found=st.lists(ANNOTATIONS, min_size=1, max_size=2), size=st.just(HEIGHT) | NUMBERS)
def test_whatever_stands_in_a_json_is_read_or_told(tmp_path_factory, found: list, size: object) -> None:
    """Never another error, and never the end of the process: pycocotools believes what it is given."""
    data = coco(*found)
    data["images"][0]["height"] = size
    with suppress(TruthError):
        read_truth(data)
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.write_text(json.dumps(data))
    with suppress(JobError):
        read_exam(str(path), StoreOptions())


FAR = [[5.0, 5, 1e8, 8, 33, 50]]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"segmentation": FAR}, "annotation 1: bad segmentation .*leaves the image of 80x60"),
        ({"segmentation": [[5, 5, float("nan"), 8, 33, 50]]}, "annotation 1: bad segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, 4801]}}, "annotation 1: bad segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 20]}}, "are not those of 60x80 pixels"),
        ({"bbox": [0, 0, float("inf"), 5]}, "annotation 1: bad bbox"),
        ({"bbox": [0, 0, 5]}, "annotation 1: bad bbox"),
        ({"category_id": "leaf"}, "annotation 1: bad category_id 'leaf'"),
        ({"image_id": 7}, "all 1 annotations are of images that are not listed: .* image_id 7"),
    ],
)
def test_numbers_that_are_none_are_told_by_annotation(tmp_path: Path, broken: dict, message: str) -> None:
    data = coco(annotation(**broken))
    with pytest.raises(TruthError, match=message):
        read_truth(data)
    (tmp_path / "truth.json").write_text(json.dumps(data))
    with pytest.raises(JobError, match=r"truth\.json: a(nnotation 1|ll 1 annotations)"):
        read_exam(str(tmp_path / "truth.json"), StoreOptions())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 1, "height": 60, "width": 80}] * 2, "two images have the id 1"),
        ([{"id": 1, "height": -60, "width": 80}], "image 1 .*: -60x80 is no image's size"),
        ([{"id": 1, "height": 60, "width": 2**40}], "is no image's size"),
    ],
)
def test_images_that_cannot_be_are_refused(tmp_path: Path, images: list[dict], message: str) -> None:
    data = coco(annotation()) | {"images": [{"file_name": "a.jpg", **image} for image in images]}
    with pytest.raises(TruthError, match=message):
        read_truth(data)
    (tmp_path / "truth.json").write_text(json.dumps(data))
    with pytest.raises(JobError, match=message):
        read_exam(str(tmp_path / "truth.json"), StoreOptions())


def test_outlines_that_leave_the_image_a_little_are_drawn_to_its_edge() -> None:
    outside = annotation(segmentation=[[-200.0, 10, 300, 10, 300, 40, -200, 40]])
    _, [image] = read_truth(coco(outside))
    assert np.array_equal(full(image.instances[0]), load_truth(coco(outside)).annToMask(outside))


def test_annotations_of_images_that_are_not_listed_are_left_out_and_counted() -> None:
    data = coco(annotation(), annotation(image_id=7), annotation(image_id=8))
    assert unlisted(data) == 2
    _, [image] = read_truth(data)
    assert len(image.instances) == 1
