"""RLE helpers against pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from condinst import rle


@st.composite
def random_masks(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    if draw(st.booleans()):
        mask = np.repeat(mask, draw(st.integers(2, 30)), axis=0)
    return mask


def embedded(mask, x, y, full_height, full_width):
    full = np.zeros((full_height, full_width), dtype=bool)
    full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return full


@given(random_masks())
def test_helpers_agree_with_pycocotools(mask):
    counts = rle.encode(mask)
    both = {"size": list(mask.shape), "counts": counts}
    assert np.array_equal(coco.decode(both), mask)
    assert np.array_equal(rle.decode(counts, *mask.shape), mask)
    assert rle.area(counts) == mask.sum()
    lengths = rle.runs(counts)
    assert lengths.sum() == mask.size
    assert rle.from_runs(lengths) == counts
    assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths), mask.ravel(order="F"))


@given(random_masks(), *(st.sampled_from([0, 1, 17]) for _ in range(4)))
def test_an_embedded_crop_is_the_full_frame_encoded(mask, left, right, top, bottom):
    height, width = mask.shape[0] + top + bottom, mask.shape[1] + left + right
    counts = rle.embed(rle.encode(mask), left, top, *mask.shape, height, width)
    assert counts == rle.encode(embedded(mask, left, top, height, width))


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12), max_size=6))
@settings(max_examples=200)
def test_runs_of_any_length_survive_the_string(several):
    bounds = np.cumsum([0, *map(len, several)])
    flat = np.array([run for runs in several for run in runs], dtype=np.int64)
    strings = rle.from_many_runs(flat, bounds)
    assert [rle.runs(counts).tolist() for counts in strings] == several


def test_strings_of_long_runs_are_those_of_pycocotools():
    lengths = [0, 1, 15, 16, 17, 31, 511, 512, 16384, 3, 3_000_000, 1, 1]
    want = coco.frPyObjects({"size": [sum(lengths), 1], "counts": lengths}, sum(lengths), 1)["counts"]
    assert rle.from_runs(np.array(lengths)) == want


@pytest.mark.parametrize("counts", [b"\x00", b"1o", b"\xff1", b"0123L"])
def test_a_string_that_is_no_rle_is_refused(counts):
    with pytest.raises(ValueError, match="not a COCO compressed RLE"):
        rle.runs(counts)


def test_a_wrong_size_is_refused():
    counts = rle.encode(np.ones((3, 4), dtype=bool))
    with pytest.raises(ValueError, match="12 pixels"):
        rle.decode(counts, 3, 5)
    with pytest.raises(ValueError, match="12 pixels"):
        rle.embed(counts, 0, 0, 5, 3, 20, 20)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (7, 0), (0, 8)])
def test_a_crop_outside_the_frame_is_refused(x, y):
    counts = rle.encode(np.ones((3, 4), dtype=bool))
    with pytest.raises(ValueError, match="not inside a frame of 10x10"):
        rle.embed(counts, x, y, 3, 4, 10, 10)


@given(seed=st.integers(0, 9999), full=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_a_cut_is_the_crop_of_the_frame(seed: int, full: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    mask = random.random(full) < random.random()
    y, x = (int(random.integers(edge)) for edge in full)
    h, w = int(random.integers(1, full[0] - y + 1)), int(random.integers(1, full[1] - x + 1))
    assert rle.cut(rle.encode(mask), *full, x, y, h, w) == rle.encode(mask[y : y + h, x : x + w])


def test_a_cut_outside_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside a frame of 4x5"):
        rle.cut(rle.encode(np.ones((4, 5), bool)), 4, 5, 3, 0, 4, 3)
