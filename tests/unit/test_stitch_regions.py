"""Geometry in run space against pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst import rle
from condinst.instances import RleMasks
from pipeline.stitch.regions import masks_of, regions_of, restrict, shared_areas, unite
from tests.unit.stitching import frames_of

SIDE = 34

few = settings(deadline=None, max_examples=25)


@st.composite
def many_masks(draw, count=12):
    """Crops, not all tight, some without pixels, at places of a frame."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = rng.integers(1, 14, (count, 2))
    share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], count)
    crops = [rng.random(tuple(s)) < p for s, p in zip(size, share, strict=True)]
    x, y = rng.integers(0, SIDE - 14, (2, count)).astype(np.int32)
    area = np.array([crop.sum() for crop in crops])
    counts = [rle.encode(crop) for crop in crops]
    return RleMasks(x, y, size[:, 0].astype(np.int32), size[:, 1].astype(np.int32), area, counts)


rectangles = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, SIDE, (12, 4)) + np.array([0, 0, 6, 6])
)


def inside(rects):
    frames = np.zeros((len(rects), SIDE, SIDE), bool)
    for frame, (left, top, right, bottom) in zip(frames, rects, strict=True):
        frame[top:bottom, left:right] = True
    return frames


@few
@given(many_masks())
def test_masks_come_back_tight_and_as_pycocotools_encodes_them(masks):
    regions = regions_of(masks)
    assert np.array_equal(regions.areas(), masks.area)
    again, frames = masks_of(regions), frames_of(masks, SIDE, SIDE)
    assert np.array_equal(frames_of(again, SIDE, SIDE), frames)
    assert np.array_equal(again.area, masks.area)
    for at, frame in enumerate(frames):
        x, y, h, w = (int(v[at]) for v in (again.x, again.y, again.height, again.width))
        crop = frame[y : y + h, x : x + w]
        assert again.counts[at] == rle.encode(crop)
        if frame.any():
            assert crop[0].any()
            assert crop[-1].any()
            assert crop[:, 0].any()
            assert crop[:, -1].any()
            assert tuple(regions.extents()[at]) == (x, y, x + w, y + h)
        else:
            assert (x, y, h, w) == (0, 0, 1, 1)


@few
@given(many_masks(), rectangles)
def test_a_restricted_mask_has_the_rectangles_pixels(masks, rects):
    kept = masks_of(restrict(regions_of(masks), rects))
    assert np.array_equal(frames_of(kept, SIDE, SIDE), frames_of(masks, SIDE, SIDE) & inside(rects))


@few
@given(many_masks(), many_masks(), rectangles)
def test_shared_areas_are_those_of_the_pixels(one, other, rects):
    a, b = restrict(regions_of(one), rects), restrict(regions_of(other), rects)
    pixels = frames_of(one, SIDE, SIDE) & frames_of(other, SIDE, SIDE) & inside(rects)
    assert np.array_equal(shared_areas(a, b, rects), pixels.sum(axis=(1, 2)))


@few
@given(many_masks(), st.lists(st.integers(0, 4), min_size=12, max_size=12))
def test_a_union_has_the_pixels_of_all(masks, groups):
    united = unite(regions_of(masks), np.array(groups), 5)
    frames = frames_of(masks, SIDE, SIDE)
    expected = np.stack([frames[np.array(groups) == group].any(axis=0) for group in range(5)])
    assert np.array_equal(frames_of(masks_of(united), SIDE, SIDE), expected)
    same = (united.x[1:] == united.x[:-1]) & (united.owner[1:] == united.owner[:-1])
    assert (united.top[1:] > united.bottom[:-1])[same].all()  # stretches of a column do not touch


@few
@given(many_masks(), st.lists(st.integers(0, 11), max_size=20))
def test_taken_masks_are_those_at_the_positions(masks, index):
    taken = masks_of(regions_of(masks).take(np.array(index, np.int64)))
    assert np.array_equal(frames_of(taken, SIDE, SIDE), frames_of(masks, SIDE, SIDE)[np.array(index, int)])


@pytest.mark.parametrize("counts", [b"\x01", b"o", rle.encode(np.ones((3, 3), bool)), b"2N"])
def test_counts_that_are_not_the_crops_are_refused(counts):
    good = rle.encode(np.eye(2, dtype=bool))
    two = np.array([2, 2], np.int32)
    with pytest.raises(ValueError, match="RLE"):
        regions_of(RleMasks(two, two, two, two, two, [good, counts]))
