"""The paired bootstrap: its AP is pycocotools' own, on resampled images too, and its interval tells."""

from __future__ import annotations

import numpy as np
import pytest

from condinst.bootstrap import compare, match
from condinst.evaluate import evaluate, load_truth
from tests.unit.test_evaluate import truth_and_results


@pytest.mark.parametrize("max_dets", [3, 100])
@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_weights_give_pycocotools_ap(seed: int, kind, max_dets: int) -> None:
    annotations, results = truth_and_results(seed)
    expected = evaluate(load_truth(annotations), results, kind, max_dets).ap
    assert match(load_truth(annotations), results, kind, max_dets).ap() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_are_repeated_images(seed: int) -> None:
    annotations, results = truth_and_results(seed)
    weights = np.random.default_rng(seed).integers(0, 3, len(annotations["images"]))
    images, repeated, found = [], [], []
    for image, weight in zip(annotations["images"], weights, strict=True):
        for _ in range(weight):
            number = len(images)
            images.append({**image, "id": number})
            own = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
            for annotation in own:
                repeated.append({**annotation, "id": len(repeated) + 1, "image_id": number})
            found += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    expected = evaluate(load_truth({**annotations, "images": images, "annotations": repeated}), found).ap
    assert match(load_truth(annotations), results, "segm").ap(weights) == pytest.approx(expected, abs=1e-9)


def test_crowds_and_images_without_instances_count_as_in_coco() -> None:
    annotations, results = truth_and_results(3)
    annotations["annotations"][0]["iscrowd"] = 1
    annotations["images"].append({"id": 99, "file_name": "e.jpg", "height": 200, "width": 240})
    results.append({**results[0], "image_id": 99})
    expected = evaluate(load_truth(annotations), results).ap
    assert match(load_truth(annotations), results, "segm").ap() == pytest.approx(expected, abs=1e-9)


def test_a_model_is_no_better_than_itself_and_better_than_its_half() -> None:
    annotations, results = truth_and_results(0, images=30)
    truth = load_truth(annotations)
    whole, half = match(truth, results, "segm"), match(truth, results[::2], "segm")
    same = compare(whole, whole, resamples=200)
    assert same.low == same.high == same.difference == same.better == 0
    found = compare(whole, half, resamples=200)
    assert 0 < found.low < found.difference < found.high
    assert found.better == 1
    again = compare(whole, half, resamples=200)
    assert again == found
    back = compare(half, whole, resamples=200)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_the_interval_of_equal_models_holds_nothing_most_of_the_time() -> None:
    """Two models that are wrong by chance alike: of 40 pairs, about two intervals leave zero out."""
    wrong = 0
    for seed in range(40):
        annotations, results = truth_and_results(seed, images=40)
        random = np.random.default_rng(seed)
        truth = load_truth(annotations)
        a, b = (match(truth, [r for r in results if random.random() < 0.7], "bbox") for _ in range(2))
        found = compare(a, b, resamples=200, seed=seed)
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 8


def test_models_of_other_images_are_not_compared() -> None:
    pairs = [truth_and_results(0, images=n) for n in (4, 5)]
    a, b = (match(load_truth(t), r, "bbox") for t, r in pairs)
    with pytest.raises(ValueError, match="matched on 4 and on 5 images"):
        compare(a, b)


def test_nothing_found_is_an_ap_of_zero() -> None:
    annotations, _ = truth_and_results(0)
    assert match(load_truth(annotations), [], "segm").ap() == 0
