"""The whole model: any mix of sizes, the same answers however images are grouped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condinst import rle
from condinst.config import DetectConfig, HeadConfig
from condinst.detect import clip_boxes, detect, edges
from condinst.head import Head
from condinst.instances import Instances
from condinst.mask import aligned_bilinear, doubled
from condinst.preprocess import to_batch
from tests.bench.reference import full_frame_masks
from tests.tiny import tiny_model

SIZES = [(64, 96), (50, 70), (96, 64), (64, 96), (33, 40)]


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


CONFIG = DetectConfig(candidate_threshold=0.0, max_instances=150, nms_iou=0.9)


def assert_close(a: Instances, b: Instances) -> None:
    assert len(a) == len(b)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
    np.testing.assert_allclose(a.masks.area, b.masks.area, atol=2)


def test_a_batch_equals_its_images_one_by_one(model, images) -> None:
    together = model.predict(images, CONFIG)
    for image, found in zip(images, together, strict=True):
        assert_close(found, model.predict([image], CONFIG)[0])
    assert max(len(found) for found in together) > 100  # the cap of 100 is a setting


def test_every_mask_lies_in_its_image_and_counts_its_area(model, images) -> None:
    for image, found in zip(images, model.predict(images, CONFIG), strict=True):
        m = found.masks
        for n in range(len(found)):
            crop = rle.decode(m.counts[n], int(m.height[n]), int(m.width[n]))
            assert crop.sum() == m.area[n]
            assert m.x[n] >= 0
            assert m.y[n] >= 0
            assert m.y[n] + m.height[n] <= image.shape[0]
            assert m.x[n] + m.width[n] <= image.shape[1]


def test_masks_are_those_of_the_full_frame_procedure(model, images) -> None:
    image = images[1]
    item = model.prepare(image)
    with torch.inference_mode():
        dense = model.dense(to_batch([item], model.config.input, torch.device("cpu")))
        found = detect(dense.head, [item.resized], CONFIG)
        parameters = model.generate(dense.head, found)
        logits = model.mask_logits(
            dense.mask_features, [len(found)], parameters, found.positions, found.level
        )
    ours = model.predict([image], CONFIG)[0]
    boxes = clip_boxes(found.boxes, edges(found.boxes, [item.size]))
    logits = logits[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    expected = full_frame_masks(logits, item.resized, item.size)
    assert len(ours) == len(expected)
    m = ours.masks
    for n, mask in enumerate(expected):
        counts = rle.embed(
            m.counts[n], int(m.x[n]), int(m.y[n]), int(m.height[n]), int(m.width[n]), *item.size
        )
        assert np.array_equal(rle.decode(counts, *item.size), np.asarray(mask))


def test_precisions_agree(images) -> None:
    exact = tiny_model().optimize_for_inference("float32")
    for precision in ("bfloat16", "float16"):
        model = tiny_model().optimize_for_inference(precision)
        x = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            half = model.dense(x.to(model.head.logits.weight.dtype))
            full = exact.dense(x)
        assert half.mask_features.dtype == torch.float32
        spread = full.mask_features.std()
        assert (half.mask_features - full.mask_features).abs().mean() < 0.05 * spread


def test_no_images_and_no_instances(model, images) -> None:
    assert model.predict([]) == []
    found = model.predict(images[:1], DetectConfig(score_threshold=1.0))[0]
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_the_controller_at_chosen_locations_is_the_dense_convolution() -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig(num_convs=1, groups=4), 8, 3, 169)
    towers = [torch.randn(2, 8, 9, 7), torch.randn(2, 8, 5, 4), *[torch.randn(2, 8, 1, 1)] * 3]
    image = torch.tensor([0, 1, 1, 0, 1])
    level = torch.tensor([0, 1, 0, 2, 4])
    index = torch.tensor([0, 19, 62, 0, 0])
    chosen = head.generate(towers, image, level, index)
    for n in range(5):
        maps = head.controller(towers[level[n]])[image[n]].flatten(1)
        torch.testing.assert_close(chosen[n], maps[:, index[n]], atol=1e-6, rtol=1e-5)


def test_aligned_bilinear_puts_inputs_where_it_says() -> None:
    x = torch.randn(1, 1, 4, 5)
    for factor in (2, 4):
        y = aligned_bilinear(x, factor)
        assert y.shape == (1, 1, 4 * factor, 5 * factor)
        half = factor // 2
        assert torch.allclose(y[:, :, half::factor, half::factor], x, atol=1e-6)


@given(st.integers(0, 3), st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**31))
def test_logits_are_doubled_as_by_two_aligned_bilinear(n: int, h: int, w: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 10.0 ** torch.randint(-6, 6, (n, h, w), generator=generator)
    x = torch.randn(n, h, w, generator=generator) * magnitudes
    assert torch.equal(
        doubled(x), aligned_bilinear(x[:, None], 2)[:, 0] if n else x.new_zeros(0, 2 * h, 2 * w)
    )


def test_scales_of_distances_are_not_rounded() -> None:
    model = tiny_model()
    model.head.scales.data.fill_(1.2345)
    assert model.optimize_for_inference("bfloat16").head.scales.tolist() == pytest.approx([1.2345] * 5)


def test_masks_are_the_same_however_few_go_through_at_once(
    model, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.predict(images, CONFIG)
    monkeypatch.setattr("condinst.model._MASK_CHUNK_PIXELS", 7 * 64 * 96 // 16)
    monkeypatch.setattr("condinst.mask._CHUNK_ELEMENTS", 3 * 4 * 8 * 12)  # three instances of some images
    for a, b in zip(whole, model.predict(images, CONFIG), strict=True):
        assert a.masks.counts == b.masks.counts
        assert np.array_equal(a.masks.x, b.masks.x)
        assert np.array_equal(a.boxes, b.boxes)
