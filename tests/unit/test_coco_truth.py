"""COCO annotations become crop masks equal to what pycocotools decodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from condinst.coco_truth import TruthError, read_truth
from condinst.evaluate import load_truth

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
