"""Metrics equal pycocotools' own summary."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from condinst.evaluate import evaluate, load_truth


def truth_and_results(seed: int = 0, images: int = 6) -> tuple[dict, list[dict]]:
    """Boxes of two classes as filled masks, and results that are those boxes moved a little."""
    random = np.random.default_rng(seed)
    truth: dict = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 200, "width": 240} for n in range(images)],
        "categories": [{"id": 3, "name": "leaf"}, {"id": 7, "name": "tree"}],
        "annotations": [],
    }
    results = []
    for image in range(images):
        for _ in range(random.integers(1, 15)):
            x, y, w, h = (int(v) for v in random.integers([0, 0, 8, 8], [120, 80, 110, 110]))
            category = int(random.choice([3, 7]))
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category}
                | shape(x, y, w, h)
                | {"area": w * h, "iscrowd": 0}
            )
            for _ in range(random.integers(0, 3)):
                dx, dy, dw, dh = (int(v) for v in random.integers(-5, 6, 4))
                moved = shape(max(0, x + dx), max(0, y + dy), max(2, w + dw), max(2, h + dh))
                results.append(
                    {"image_id": image, "category_id": category, "score": float(random.random())} | moved
                )
    return truth, results


def shape(x: int, y: int, w: int, h: int) -> dict:
    mask = np.zeros((200, 240), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return {"bbox": [x, y, w, h], "segmentation": coco_mask.encode(mask)}


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_numbers_are_pycocotools_own(kind, seed: int) -> None:
    annotations, results = truth_and_results(seed)
    metrics = evaluate(load_truth(annotations), results, kind)
    truth = load_truth(annotations)
    drop = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        predicted = truth.loadRes([{k: v for k, v in r.items() if k != drop} for r in results])
        run = COCOeval(truth, predicted, kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    ours = [metrics.ap, metrics.ap50, metrics.ap75, *metrics.ap_by_size.values()]
    theirs = [v if v > -1 else np.nan for v in run.stats[:6]]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    np.testing.assert_allclose(metrics.ar, run.stats[8], atol=1e-9)
    assert set(metrics.ap_by_class) == {"leaf", "tree"}


def test_more_detections_than_100_are_looked_at_when_asked() -> None:
    annotations, _ = truth_and_results(images=1)
    annotations["annotations"] = [
        {"id": n + 1, "image_id": 0, "category_id": 3, "area": 16, "iscrowd": 0}
        | shape(4 * (n % 50), 8 * (n // 50), 4, 4)
        for n in range(150)
    ]
    results = [
        {"image_id": 0, "category_id": 3, "score": 0.9, "segmentation": a["segmentation"]}
        for a in annotations["annotations"]
    ]
    truth = load_truth(annotations)
    assert evaluate(truth, results, max_dets=100).ar == pytest.approx(100 / 150)
    assert evaluate(truth, results, max_dets=300).ar == pytest.approx(1.0)


def test_nothing_found_is_zero() -> None:
    annotations, _ = truth_and_results()
    assert evaluate(load_truth(annotations), []).ap == 0.0
