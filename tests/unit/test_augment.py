"""Augmentations: image and masks stay together, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst.augment import (
    AugmentConfig,
    CropMask,
    Example,
    boxes_only,
    crop,
    flip,
    random_view,
    rescale,
    to_box_target,
    to_target,
    trim,
    turn,
)

COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)


def painted(seed: int, height: int, width: int) -> Example:
    """Rectangles painted in their class's colour on black: the image tells where each mask must be."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    instances = []
    for category in range(3):
        h, w = random.integers(8, height // 2), random.integers(4, max(5, width // 3 - 1))
        y, x = int(random.integers(height - h)), category * (width // 3)
        image[y : y + h, x : x + w] = COLOURS[category]
        instances.append(CropMask(x, y, np.ones((h, w), bool), category))
    return Example(image, tuple(instances))


def assert_masks_fit_their_pixels(example: Example) -> None:
    height, width = example.image.shape[:2]
    for m in example.instances:
        h, w = m.mask.shape
        assert m.mask.any()
        assert 0 <= m.x <= m.x + w <= width
        assert 0 <= m.y <= m.y + h <= height
        inside = example.image[m.y : m.y + h, m.x : m.x + w][m.mask]
        assert (inside == COLOURS[m.category]).all()
    covered = sum(int(m.mask.sum()) for m in example.instances)
    assert covered == int((example.image.max(2) > 0).sum())


SIZES = st.integers(40, 90)


@given(seed=st.integers(0, 999), height=SIZES, width=SIZES, turns=st.lists(st.booleans(), max_size=6))
@settings(max_examples=60, deadline=None)
def test_flips_turns_and_crops_keep_masks_on_their_pixels(
    seed: int, height: int, width: int, turns: list[bool]
) -> None:
    example = painted(seed, height, width)
    for flipped in turns:
        example = flip(example) if flipped else turn(example)
        assert_masks_fit_their_pixels(example)
    random = np.random.default_rng(seed)
    x, y = int(random.integers(20)), int(random.integers(20))
    assert_masks_fit_their_pixels(crop(example, x, y, 33, 71, min_pixels=1))


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_flip_twice_and_four_turns_change_nothing(seed: int) -> None:
    example = painted(seed, 50, 70)
    for same in (flip(flip(example)), turn(turn(turn(turn(example))))):
        assert np.array_equal(same.image, example.image)
        for a, b in zip(same.instances, example.instances, strict=True):
            assert (a.x, a.y, a.category) == (b.x, b.y, b.category)
            assert np.array_equal(a.mask, b.mask)


@given(seed=st.integers(0, 999), scale=st.floats(0.4, 3.0))
@settings(max_examples=40, deadline=None)
def test_rescaled_masks_stay_over_their_pixels(seed: int, scale: float) -> None:
    example = rescale(painted(seed, 60, 80), scale)
    for m in example.instances:
        h, w = m.mask.shape
        inside = example.image[m.y : m.y + h, m.x : m.x + w][m.mask]
        ours = inside[:, m.category].astype(int)
        assert (ours >= 60).all()  # a bilinear edge pixel still holds some of the colour
        assert (ours > 120).mean() > 0.8


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_random_views_have_the_size_asked_for_and_make_targets(seed: int) -> None:
    view = random_view(painted(seed, 90, 130), np.random.default_rng(seed), AugmentConfig(size=64))
    assert view.image.shape == (64, 64, 3)
    target = to_target(view)
    assert target.masks.shape == (len(view.instances), 16, 16)
    for m, box, center in zip(view.instances, target.boxes, target.centers, strict=True):
        h, w = m.mask.shape
        assert box.tolist() == [m.x, m.y, m.x + w, m.y + h]
        assert torch.all(center >= box[:2] - 1)
        assert torch.all(center <= box[2:] + 1)


def test_the_same_seed_gives_the_same_view() -> None:
    a, b = (
        random_view(painted(1, 90, 90), np.random.default_rng(7), AugmentConfig(size=64)) for _ in range(2)
    )
    assert np.array_equal(a.image, b.image)


def test_of_boxes_only_a_target_tells_nothing_else() -> None:
    example = painted(3, 96, 96)
    full, alone = to_target(example), to_box_target(example)
    assert torch.equal(full.boxes, alone.boxes)
    assert torch.equal(full.classes, alone.classes)
    assert alone.semantic is None
    filled = to_box_target(boxes_only(example))
    for name in ("boxes", "classes", "centers", "masks"):
        assert torch.equal(getattr(alone, name), getattr(filled, name)), name


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_view_is_at_the_scale_of_the_model(scale: float) -> None:
    example = Example(np.zeros((300, 300, 3), np.uint8), (CropMask(0, 0, np.ones((300, 300), bool), 0),))
    config = AugmentConfig(size=640, smallest_scale=1, largest_scale=1)
    view = random_view(example, np.random.default_rng(0), config, scale)
    assert view.instances[0].mask.sum() == (300 * scale) ** 2


def test_a_cut_mask_does_not_hold_the_frame_it_was_cut_from() -> None:
    frame = np.zeros((1000, 1000), bool)
    frame[10:20, 10:20] = True
    cut = trim(CropMask(0, 0, frame, 0))
    assert cut is not None
    assert cut.mask.base is None
