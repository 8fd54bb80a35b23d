"""Augmentations: image and masks stay together, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst import rle
from condinst.augment import (
    AugmentConfig,
    CropMask,
    Example,
    Labelled,
    StoredMask,
    crop,
    flip,
    paste,
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


@given(seed=st.integers(0, 99), aspect=st.sampled_from([1.0, 1.5]), height=st.sampled_from([90, 200]))
@settings(max_examples=30, deadline=None)
def test_random_views_have_the_size_asked_for_and_make_targets(seed: int, aspect: float, height: int) -> None:
    config = AugmentConfig(size=64, aspect=aspect)
    view = random_view(painted(seed, height, 130), np.random.default_rng(seed), config)
    longer = round(64 * aspect)
    assert view.image.shape[:2] == ((64, longer) if height == 90 else (longer, 64))
    target = to_target(view)
    assert target.masks.shape == (len(view.instances), view.image.shape[0] // 4, view.image.shape[1] // 4)
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
    stored = (StoredMask(m.x, m.y, *m.mask.shape, rle.encode(m.mask), m.category) for m in example.instances)
    filled = to_box_target(Example(example.image, tuple(m.filled().opened() for m in stored)))
    for name in ("boxes", "classes", "centers", "masks"):
        assert torch.equal(getattr(alone, name), getattr(filled, name)), name


def stored(example: Example) -> Labelled:
    masks = (StoredMask(m.x, m.y, *m.mask.shape, rle.encode(m.mask), m.category) for m in example.instances)
    return Labelled(example.image, tuple(masks))


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_stored_masks_give_the_same_views(seed: int) -> None:
    example = painted(seed, 90, 130)
    config = AugmentConfig(size=64)
    a, b = (random_view(e, np.random.default_rng(seed), config) for e in (example, stored(example)))
    assert np.array_equal(a.image, b.image)
    assert len(a.instances) == len(b.instances)
    for x, y in zip(a.instances, b.instances, strict=True):
        assert (x.x, x.y, x.category) == (y.x, y.y, y.category)
        assert np.array_equal(x.mask, y.mask)


def test_only_masks_that_meet_the_window_are_opened() -> None:
    broken = StoredMask(50, 50, 10, 10, b"not an RLE", 0)
    image = np.zeros((80, 80, 3), np.uint8)
    assert crop(Labelled(image, (broken,)), 0, 0, 40, 40).instances == ()
    with pytest.raises(ValueError, match="not a COCO compressed RLE"):
        crop(Labelled(image, (broken,)), 0, 0, 60, 60)


STEPS = ("flip", "turn", "crop", "paste")


@given(seed=st.integers(0, 999), steps=st.lists(st.sampled_from(STEPS), max_size=7), edge=SIZES)
@settings(max_examples=80, deadline=None)
def test_masks_fit_their_pixels_after_any_chain(seed: int, steps: list[str], edge: int) -> None:
    random = np.random.default_rng(seed)
    example = painted(seed, edge, edge)
    for number, step in enumerate(steps):
        if step == "crop":
            x, y = (int(v) for v in random.integers(0, edge // 3, 2))
            example = crop(example, x, y, edge, edge, min_pixels=1)
        elif step == "paste":
            other = painted(seed + number + 1, edge, edge)
            chosen = np.flatnonzero(random.random(3) < 0.5).tolist()
            example = paste(example, other, chosen, min_pixels=1)
            assert len(example.instances) >= len(chosen)
        else:
            example = flip(example) if step == "flip" else turn(example)
        assert_masks_fit_their_pixels(example)


def test_what_is_pasted_hides_what_is_below() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    below = Example(
        image, (CropMask(0, 0, np.ones((20, 20), bool), 0), CropMask(30, 30, np.ones((8, 8), bool), 0))
    )
    above = Example(image + 9, (CropMask(0, 0, np.ones((20, 19), bool), 1),))
    kept = paste(below, above, [0], min_pixels=16)
    assert [(m.category, int(m.mask.sum())) for m in kept.instances] == [(0, 20), (0, 64), (1, 380)]
    assert [m.category for m in paste(below, above, [0], min_pixels=21).instances] == [0, 1]
    assert np.array_equal(paste(below, above, []).image, below.image)


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


@given(st.integers(0, 10**6), SIZES, SIZES)
def test_a_target_is_that_of_masks_laid_out_in_full(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    masks, crops = [], []
    for category in range(int(random.integers(5))):
        h, w = int(random.integers(1, height + 1)), int(random.integers(1, width + 1))
        y, x = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
        found = trim(CropMask(x, y, random.random((h, w)) < 0.5, category))
        if found is not None:
            h, w = found.mask.shape
            full = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32), bool)
            full[found.y : found.y + h, found.x : found.x + w] = found.mask
            masks.append(full)
            crops.append(found)
    target = to_target(Example(np.zeros((height, width, 3), np.uint8), tuple(crops)))
    assert len(target.boxes) == len(masks)
    semantic = np.zeros_like(target.semantic.numpy())  # type: ignore[union-attr]
    for number in sorted(range(len(masks)), key=lambda n: -masks[n].sum()):
        rows, columns = np.nonzero(masks[number])
        assert target.masks[number].numpy().tolist() == masks[number][2::4, 2::4].tolist()
        assert target.centers[number].tolist() == pytest.approx([columns.mean(), rows.mean()], rel=1e-6)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert target.boxes[number].tolist() == box
        semantic[masks[number][4::8, 4::8]] = crops[number].category + 1
    assert np.array_equal(target.semantic, semantic)
