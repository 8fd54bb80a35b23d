"""Full-size masks against the full-frame reference procedure, pixel for pixel."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst import masks, rle
from condinst.instances import RleMasks
from condinst.masks import full_size_masks
from tests.bench.reference import encode_full_frame, full_frame_masks

KINDS = ["noise", "smooth", "brink", "mirror", "ties", "zeros", "saturated", "specks", "flat"]


def make_logits(kind, count, h4, w4, seed):
    """Logits of many natures.

    Those of "brink" and "flat" are some roundings away from the threshold, those of "mirror" and "ties"
    cancel each other: every rounding on the way to a pixel matters there.
    """
    g = torch.Generator().manual_seed(seed)
    shape = (count, h4, w4)
    if kind == "noise":
        return torch.randn(shape, generator=g) * 3
    if kind == "brink":
        return torch.randint(-40, 41, shape, generator=g) * 1e-7
    if kind == "mirror":
        heights = torch.rand((count, 1, 1), generator=g) * 6
        return heights * (
            torch.randint(0, 2, shape, generator=g) * 2 - 1 + torch.randn(shape, generator=g) * 1e-7
        )
    if kind == "ties":
        return torch.randint(-2, 3, shape, generator=g).float()
    if kind == "zeros":
        return -torch.randint(0, 2, shape, generator=g).float()
    if kind == "saturated":
        return torch.randint(0, 2, shape, generator=g).float() * 400 - 200
    if kind == "specks":
        return torch.where(torch.rand(shape, generator=g) < 0.01, 6.0, -8.0)
    if kind == "flat":
        return (torch.randint(-4, 5, (count, 1, 1), generator=g) ** 3 * 1e-8).expand(shape).contiguous()
    coarse = torch.randn((count, 1, h4 // 8 + 1, w4 // 8 + 1), generator=g) * 4
    return F.interpolate(coarse, size=(h4, w4), mode="bicubic")[:, 0]


def assert_same_pixels(logits, resized, size, threshold=0.5):
    masks = full_size_masks(logits, resized, size, threshold)
    reference = full_frame_masks(logits, resized, size, threshold)
    assert full_frame(masks, size) == encode_full_frame(reference)
    assert masks.area.tolist() == reference.sum((1, 2)).tolist()
    return masks, reference


def full_frame(masks, size):
    crops = zip(masks.counts, masks.x, masks.y, masks.height, masks.width, strict=True)
    return [rle.embed(counts, *map(int, crop), *size) for counts, *crop in crops]


@st.composite
def cases(draw):
    """Shapes as the model has them: the padded input is a multiple of 32, so cells come in eights."""
    h4, w4 = 8 * draw(st.integers(1, 6)), 8 * draw(st.integers(1, 6))
    resized = (draw(st.integers(4 * h4 - 31, 4 * h4)), draw(st.integers(4 * w4 - 31, 4 * w4)))
    side = st.integers(1, 700)
    other = (draw(side), draw(side))
    size = draw(st.sampled_from([resized, other, (resized[0], other[1]), (other[0], resized[1])]))
    logits = make_logits(
        draw(st.sampled_from(KINDS)), draw(st.integers(1, 4)), h4, w4, draw(st.integers(0, 2**31))
    )
    return logits, resized, size


@given(cases())
@settings(max_examples=150, deadline=None)
def test_pixels_are_those_of_the_full_frame_procedure(case):
    assert_same_pixels(*case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.05, 0.4, 0.97, 1.0, 1.03, 3.75, 9.0])
def test_every_kind_of_mask_at_every_scale(kind, scale):
    resized = (117, 157)
    size = (round(resized[0] * scale), round(resized[1] * scale))
    assert_same_pixels(make_logits(kind, 3, 32, 40, seed=5), resized, size)


@pytest.mark.parametrize("size", [(64, 64), (61, 67), (30, 98), (99, 30), (1, 1), (1, 127), (200, 1)])
def test_small_outputs_follow_the_kernel_for_small_outputs(size):
    assert_same_pixels(make_logits("brink", 20, 16, 24, seed=1), (64, 90), size)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.75, 0.95])
def test_other_thresholds(threshold):
    assert_same_pixels(make_logits("smooth", 5, 24, 32, seed=2), (90, 120), (211, 307), threshold)


@pytest.mark.parametrize("resized", [(1, 1), (2, 3), (3, 2), (4, 5), (33, 1)])
def test_images_that_fill_a_corner_of_the_padded_input(resized):
    logits = make_logits("noise", 6, 16, 16, seed=3)
    assert_same_pixels(logits, resized, resized)
    assert_same_pixels(logits, resized, (50, 90))


def test_threads_and_layout_do_not_matter():
    logits = make_logits("brink", 6, 40, 48, seed=4)
    spread = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert not spread.is_contiguous()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_same_pixels(spread, (150, 190), (300, 391))
    finally:
        torch.set_num_threads(before)


def test_a_mask_is_the_same_alone_as_among_others():
    logits = make_logits("mirror", 200, 8, 8, seed=11)
    reference = encode_full_frame(full_frame_masks(logits, (32, 32), (32, 32)))
    for one, expected in zip(logits.split(1), reference, strict=True):
        assert full_frame(full_size_masks(one, (32, 32), (32, 32)), (32, 32)) == [expected]


@st.composite
def batches(draw):
    """Several images of one padded input: of one kind, which is that of most photographs, or of any."""
    h4, w4 = 8 * draw(st.integers(1, 6)), 8 * draw(st.integers(1, 6))
    edges = [draw(st.lists(st.integers(4 * n - 31, 4 * n), min_size=1, max_size=2)) for n in (h4, w4)]
    sides = [draw(st.lists(st.integers(1, 300), min_size=1, max_size=2)) for _ in range(2)]
    resized, other = (st.tuples(*map(st.sampled_from, pair)) for pair in (edges, sides))
    size = st.one_of(st.none(), other)
    images = []
    for own in draw(st.lists(st.tuples(resized, size, st.integers(0, 3)), min_size=1, max_size=5)):
        images.append(((own[0], own[1] or own[0]), own[2]))
    logits = [
        make_logits(draw(st.sampled_from(KINDS)), count, h4, w4, draw(st.integers(0, 2**31)))
        for _, count in images
    ]
    return images, torch.cat(logits)


@given(batches(), st.sampled_from([0.3, 0.5]), st.sampled_from([(1, 1), (1 << 8, 50), (1 << 22, 1 << 20)]))
@settings(max_examples=150, deadline=None)
def test_masks_of_images_of_several_sizes_are_what_each_alone_has(batch, threshold, pieces):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_CELLS", pieces[0])
        patch.setattr(masks, "_CHANGES", pieces[1])
        assert_what_each_alone_has(*batch, threshold)


def assert_what_each_alone_has(images, logits, threshold):
    ends = np.cumsum([count for _, count in images])
    for kind in {masks.kind(sizes) for sizes, _ in images}:
        own = [number for number, (sizes, _) in enumerate(images) if masks.kind(sizes) == kind]
        rows = [logits[ends[n] - images[n][1] : ends[n]] for n in own]
        with torch.inference_mode():
            pieces = masks.mask_changes(torch.cat(rows), [images[n] for n in own], threshold)
            got = RleMasks.concatenate(piece.masks() for piece in pieces)
        want = RleMasks.concatenate(
            full_size_masks(part, *images[n][0], threshold) for n, part in zip(own, rows, strict=True)
        )
        assert got.counts == want.counts
        for name in ("x", "y", "height", "width", "area"):
            assert getattr(got, name).tolist() == getattr(want, name).tolist()


def test_masks_that_do_not_go_together_are_refused():
    logits = torch.zeros(2, 8, 8)
    one, other = ((32, 32), (32, 32)), ((32, 32), (64, 64))
    for images in ([(one, 1), (other, 1)], [(one, 1)]):
        with pytest.raises(ValueError, match="images of one kind"):
            masks.mask_changes(logits, images)


@pytest.mark.parametrize("pieces", [(1, 1), (1 << 8, 50), (1 << 26, 1 << 24)])
def test_the_size_of_the_pieces_does_not_matter(pieces, monkeypatch):
    """A GPU's are larger; and what it sorts and drops before it copies is what the host would drop."""
    logits = make_logits("smooth", 12, 20, 24, 5)
    want = full_size_masks(logits, (75, 90), (150, 181))
    monkeypatch.setattr(masks, "_CELLS", pieces[0])
    monkeypatch.setattr(masks, "_CHANGES", pieces[1])
    got = full_size_masks(logits, (75, 90), (150, 181))
    assert got.counts == want.counts
    assert (got.x == want.x).all()
    assert (got.area == want.area).all()
    changes = masks.changes
    monkeypatch.setattr(masks, "changes", lambda *given: masks._odd_there(changes(*given)))
    assert full_size_masks(logits, (75, 90), (150, 181)).counts == want.counts


@given(st.lists(st.integers(0, 20)))
def test_a_device_keeps_the_numbers_that_the_host_would(values):
    numbers = torch.tensor(values, dtype=torch.int64)
    assert masks._odd_there(numbers).tolist() == masks._odd(np.sort(numbers.numpy())).tolist()


def test_masks_may_be_encoded_later_and_in_another_thread():
    logits = make_logits("smooth", 5, 20, 24, 6)
    with torch.inference_mode():
        pieces = list(masks.mask_changes(logits, [(((80, 96), (80, 96)), len(logits))]))
    with ThreadPoolExecutor(1) as behind:
        found = RleMasks.concatenate(behind.map(masks.MaskChanges.masks, pieces))
    assert found.counts == full_size_masks(logits, (80, 96), (80, 96)).counts


def test_crops_are_tight():
    masks, reference = assert_same_pixels(make_logits("smooth", 8, 32, 32, seed=6), (128, 120), (200, 170))
    for i, pixels in enumerate(reference.numpy()):
        ys, xs = np.nonzero(pixels)
        assert (masks.y[i], masks.x[i]) == (ys.min(), xs.min())
        assert (masks.height[i], masks.width[i]) == (np.ptp(ys) + 1, np.ptp(xs) + 1)


def test_masks_of_nothing_and_of_everything():
    logits = torch.tensor([-5.0, 5.0, 0.0]).view(3, 1, 1).expand(3, 16, 24).contiguous()
    masks, _ = assert_same_pixels(logits, (60, 90), (100, 150))
    assert masks.area.tolist() == [0, 15000, 0]
    crops = np.stack([masks.y, masks.x, masks.height, masks.width], axis=1)
    assert crops.tolist() == [[0, 0, 1, 1], [0, 0, 100, 150], [0, 0, 1, 1]]
    assert rle.decode(masks.counts[0], 1, 1).tolist() == [[False]]


def test_no_instances():
    masks = full_size_masks(torch.zeros(0, 16, 16), (64, 64), (640, 640))
    assert len(masks) == 0
    assert masks.counts == []


def test_numbers_that_are_none_count_as_off():
    logits = make_logits("smooth", 4, 24, 24, seed=8)
    broken = logits.clone()
    broken[1, 3:9, 5:20] = torch.nan
    off = torch.where(broken.isnan(), -torch.inf, broken)
    for size in ((90, 96), (200, 210)):
        assert full_frame(full_size_masks(broken, (90, 96), size), size) == full_frame(
            full_size_masks(off, (90, 96), size), size
        )


def test_many_instances_are_worked_through_in_parts():
    """More cells, and more changes, than are held together."""
    logits = make_logits("specks", 90, 200, 272, seed=9)
    logits[40:44] = make_logits("noise", 4, 200, 272, seed=10)
    masks = full_size_masks(logits, (800, 1088), (1600, 2176))
    picked = np.array([0, 39, 40, 43, 44, 89])
    want = encode_full_frame(full_frame_masks(logits[picked], (800, 1088), (1600, 2176)))
    assert full_frame(masks[picked], (1600, 2176)) == want


MEMORY = r"""
import re, torch
from condinst.masks import full_size_masks
y, x = torch.meshgrid(torch.arange(200.0), torch.arange(272.0), indexing="ij")
logits = torch.empty(1000, 200, 272)
for i in range(1000):
    torch.hypot(y - 20 - i % 160, x - 20 - i % 232, out=logits[i]).neg_().add_(5 + i % 25)
masks = full_size_masks(logits, (800, 1067), (3000, 4000))
assert len(masks) == 1000 and masks.area.min() > 0
print(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
"""


def test_a_thousand_instances_on_twelve_megapixels_fit_in_a_gibibyte():
    """The whole process: interpreter, PyTorch, the logits (218 MB), the masks.

    Its own high-water mark: `ru_maxrss` would count the test process that it was forked from.
    """
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 20


def test_picking_and_joining_masks():
    masks = full_size_masks(make_logits("smooth", 5, 16, 16, seed=7), (64, 64), (90, 80))
    order = np.array([3, 0, 3])
    picked = masks[order]
    assert picked.counts == [masks.counts[i] for i in order]
    assert picked.area.tolist() == masks.area[order].tolist()
    few = masks.area > np.median(masks.area)
    joined = RleMasks.concatenate([masks[few], masks[~few]])
    assert sorted(joined.counts) == sorted(masks.counts)
    assert joined.x.dtype == np.int32
    assert len(RleMasks.concatenate([])) == 0


@pytest.mark.parametrize(
    ("logits", "resized", "size", "threshold", "message"),
    [
        (torch.zeros(2, 8, 8, dtype=torch.float64), (32, 32), (9, 9), 0.5, "float32"),
        (torch.zeros(8, 8), (32, 32), (9, 9), 0.5, "float32"),
        (torch.zeros(2, 8, 8), (33, 32), (9, 9), 0.5, "padded input"),
        (torch.zeros(2, 8, 8), (32, 32), (0, 9), 0.5, "output size"),
        (torch.zeros(2, 8, 8), (32, 32), (9, 9), 1.0, "threshold"),
    ],
)
def test_what_does_not_fit_together_is_refused(logits, resized, size, threshold, message):
    with pytest.raises(ValueError, match=message):
        full_size_masks(logits, resized, size, threshold)
