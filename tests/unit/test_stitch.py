"""Stitching: what windows cut becomes one again, what two saw is counted once, neighbours stay two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst.instances import Instances
from jobs.scenes import CATEGORIES, render
from pipeline.records import Window
from pipeline.stitch import Rules, Stitcher, Windows, ordered, stitch
from pipeline.stitch.fragments import Fragments, concatenated, pick
from pipeline.stitch.order import order_keys, row_order
from pipeline.stitch.seams import compare, seam_lines
from tests.unit.stitching import ellipse, frames_of, instances, seen, tiled

SIDE = 200


def box(left, top, right, bottom, side=SIDE):
    frame = np.zeros((side, side), bool)
    frame[top:bottom, left:right] = True
    return frame


def blobs(rng, count, side=SIDE):
    """Ellipses that may touch but do not overlap."""
    taken, frames = np.zeros((side, side), bool), []
    for _ in range(count):
        x, y = rng.uniform(0, side, 2)
        frame = ellipse(side, x, y, *rng.uniform(2, 45, 2))
        if frame.sum() > 8 and not (frame & taken).any():
            frames.append(frame)
            taken |= frame
    return frames


def shifted(frame, down, right):
    """The frame moved by at most a pixel; nothing comes in at its edges."""
    rows, columns = frame.shape
    return np.pad(frame, 1)[1 - down : 1 - down + rows, 1 - right : 1 - right + columns]


def same(a: Fragments, b: Fragments):
    assert a.found.masks.counts == b.found.masks.counts
    for name in ("x", "y", "height", "width", "area"):
        assert np.array_equal(getattr(a.found.masks, name), getattr(b.found.masks, name))
    for name in ("boxes", "scores", "classes"):
        assert np.array_equal(getattr(a.found, name), getattr(b.found, name))


def noisy(rng, window, frames, scores, classes):
    """A view with masks moved by a pixel, some missed, scores of its own."""
    kept = [at for at in range(len(frames)) if rng.random() > 0.15]
    moved = [shifted(frames[at], *rng.integers(-1, 2, 2)) for at in kept]
    return seen(
        window, moved, [scores[at] + rng.normal(0, 0.05) for at in kept], [classes[at] for at in kept]
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(64, 16), (72, 24), (100, 20), (130, 64), (199, 30)]))
def test_perfect_views_give_the_very_instances(seed, tiling):
    rng = np.random.default_rng(seed)
    frames = blobs(rng, 30)
    scores = (0.3 + rng.permutation(len(frames)) / 50).tolist()
    classes = rng.integers(0, 2, len(frames)).tolist()
    tiles = tiled(SIDE, *tiling)
    found = [(at, seen(tile, frames, scores, classes)) for at, tile in enumerate(tiles)]
    result = stitch(Windows.of(tiles), found).found
    order = np.argsort(-np.array(scores))
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE), np.array(frames)[order])
    assert np.array_equal(result.masks.area, [frames[at].sum() for at in order])
    assert np.array_equal(result.classes, np.array(classes)[order])
    assert np.allclose(result.scores, np.array(scores)[order])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_no_order_of_anything_changes_the_result(seed, hold):
    rng = np.random.default_rng(seed)
    frames = blobs(rng, 30)
    classes, scores = [at % 2 for at in range(len(frames))], [0.5 + at % 7 / 20 for at in range(len(frames))]
    tiles = tiled(SIDE, 72, 24)
    views = [noisy(rng, tile, frames, scores, classes) for tile in tiles]
    expected = stitch(Windows.of(tiles), enumerate(views))
    numbers = rng.permutation(len(tiles))
    windows = Windows.of([tiles[at] for at in numbers])
    shuffled = [pick(views[at], rng.permutation(len(views[at]))) for at in numbers]
    stitcher = Stitcher(windows, hold=hold)
    parts = [stitcher.add(int(at), shuffled[at]) for at in rng.permutation(len(tiles))]
    result = ordered(Fragments.concatenate([*parts, stitcher.finish()]))
    same(result, expected)
    assert np.array_equal(numbers[result.window], expected.window)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_a_united_mask_is_the_union_of_pixels_of_views(seed):
    rng = np.random.default_rng(seed)
    tiles = [Window(0, 0, 120, SIDE), Window(80, 0, 120, SIDE)]
    frame = ellipse(SIDE, 100, 100, rng.uniform(60, 90), rng.uniform(20, 90))
    views = [np.roll(frame, rng.integers(-2, 3, 2), (0, 1)) for _ in tiles]
    parts = [
        seen(tile, [view], [score], [0]) for tile, view, score in zip(tiles, views, (0.9, 0.6), strict=True)
    ]
    result = stitch(Windows.of(tiles), enumerate(parts)).found
    union = np.zeros((SIDE, SIDE), bool)
    for tile, view in zip(tiles, views, strict=True):
        part = (slice(None), slice(tile.x, tile.x + tile.width))
        union[part] |= view[part]
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE), union[None])
    areas = [int(part.masks.area[0]) for part in parts]
    assert result.scores[0] == pytest.approx(np.average([0.9, 0.6], weights=areas), abs=1e-6)
    assert result.boxes[0].tolist() == [
        min(parts[0].boxes[0, 0], parts[1].boxes[0, 0] + 80),
        min(part.boxes[0, 1] for part in parts),
        max(parts[0].boxes[0, 2], parts[1].boxes[0, 2] + 80),
        max(part.boxes[0, 3] for part in parts),
    ]


def two(left: Instances, right: Instances, rules: Rules | None = None) -> Instances:
    """Stitched from two windows side by side: x 0 to 120 and 80 to 200."""
    windows = Windows.of([Window(0, 0, 120, SIDE), Window(80, 0, 120, SIDE)])
    return stitch(windows, [(0, left), (1, right)], rules).found


def views(*frames, scores=(), classes=()):
    """Those frames in the pixels of each of the two windows."""
    return [instances([f[:, at : at + 120] for f in frames], scores, classes) for at in (0, 80)]


def test_the_view_farthest_inside_its_window_is_taken_whole():
    left, right = views(box(85, 50, 105, 70))
    right.scores[:] = 0.4
    assert two(left, right).scores.tolist() == pytest.approx([0.9])  # 15 pixels from a border, not 5
    left, right = views(box(95, 50, 115, 70))
    right.scores[:] = 0.4
    assert two(left, right).scores.tolist() == pytest.approx([0.4])


def test_a_cut_view_gives_way_to_a_whole_one_whatever_the_scores():
    left, right = views(box(90, 50, 150, 70))
    left.scores[:], right.scores[:] = 0.99, 0.3
    result = two(left, right)
    assert result.scores.tolist() == pytest.approx([0.3])
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE)[0], box(90, 50, 150, 70))


def test_a_cut_view_of_which_little_was_found_gives_way_too():
    whole, piece = box(90, 50, 150, 90), box(105, 55, 120, 85)
    result = two(instances([piece[:, :120]]), instances([whole[:, 80:]]))
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE), whole[None])


def test_neighbours_that_touch_stay_two():
    result = two(*views(box(40, 50, 160, 70), box(40, 70, 160, 90)))
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE), [box(40, 50, 160, 70), box(40, 70, 160, 90)])


def test_two_that_one_window_told_apart_are_not_joined_by_a_neighbour_that_did_not():
    upper, lower = box(40, 50, 160, 72), box(40, 72, 160, 90)
    left, _ = views(upper, lower)
    right = instances([(upper | lower)[:, 80:]])
    result = two(left, right)
    assert len(result) == 2
    assert sorted(result.masks.height.tolist()) == [18, 40]


def test_no_chain_of_windows_joins_two_of_one_window():
    corners = [
        Window(0, 0, 120, 120),
        Window(80, 0, 120, 120),
        Window(0, 80, 120, 120),
        Window(80, 80, 120, 120),
    ]
    one, other = box(60, 84, 140, 100), box(60, 100, 140, 116)
    merged = one | other
    found = [
        seen(corners[0], [one, other], [0.9, 0.8], [0, 0]),
        seen(corners[1], [merged], [0.9], [0]),
        seen(corners[2], [other, one], [0.8, 0.9], [0, 0]),
        seen(corners[3], [merged], [0.9], [0]),
    ]
    assert len(stitch(Windows.of(corners), enumerate(found))) == 2


def test_classes_must_agree():
    left, right = views(box(40, 50, 160, 70))
    right.classes[:] = 1
    assert sorted(two(left, right).classes.tolist()) == [0, 1]


def test_a_stray_at_a_border_is_dropped_where_the_neighbour_sees_more_and_finds_nothing():
    nothing = concatenated([])
    left, right = views(box(100, 50, 120, 70))
    assert len(two(left, nothing)) == 0
    assert len(two(nothing, right)) == 1  # 20 pixels inside its window, not at the border
    left, right = views(box(70, 50, 120, 70))
    assert len(two(left, nothing)) == 1  # the neighbour did not see all of it


def test_a_window_that_is_not_there_confirms_nothing():
    left, _ = views(box(100, 50, 120, 70))
    assert len(stitch(Windows.of([Window(0, 0, 120, SIDE)]), [(0, left)])) == 1


def test_a_mask_that_runs_wild_along_its_windows_border_is_the_same_instance_still():
    frame, wild = box(112, 60, 150, 70), box(112, 60, 120, 70)
    wild[40:100, 117:120] = True
    result = two(instances([wild[:, :120]]), instances([frame[:, 80:]]))
    assert np.array_equal(frames_of(result.masks, SIDE, SIDE), frame[None])


def test_a_sliver_on_a_neighbour_is_not_taken_for_a_part_of_it():
    """The upper was missed on the right, the lower on the left; three rows of the lower lie on the upper."""
    upper, lower = box(40, 50, 160, 72), box(100, 69, 160, 72)
    lower[69:110, 121:160] = True
    result = two(instances([upper[:, :120]]), instances([lower[:, 80:]]), Rules(least_iou=0.1))
    assert len(result) == 2
    assert len(two(instances([upper[:, :120]]), instances([lower[:, 80:]]), Rules(least_iou=0.0))) == 1


def test_what_no_other_window_sees_is_given_out_at_once():
    stitcher = Stitcher(Windows.of([Window(0, 0, 120, SIDE), Window(80, 0, 120, SIDE)]))
    first = stitcher.add(0, instances([box(10, 10, 30, 30)[:, :120], box(60, 60, 81, 80)[:, :120]]))
    assert first.found.boxes.tolist() == [[10, 10, 30, 30]]
    assert stitcher.held == 1
    stitcher.add(1, concatenated([]))
    assert stitcher.finish().found.boxes.tolist() == [[60, 60, 81, 80]]


@pytest.mark.parametrize("rows", [8, 32])
def test_what_is_held_grows_with_a_row_of_windows_not_with_the_raster(rows):
    tiles = [Window(x, y, 40, 40) for y in range(0, rows * 30, 30) for x in range(0, 150, 30)]
    view = instances([box(4, 4, 12, 12, 40), box(31, 31, 38, 38, 40), box(1, 31, 9, 38, 40)])
    stitcher, most = Stitcher(Windows.of(tiles), hold=10), 0
    for at in range(len(tiles)):
        stitcher.add(at, view)
        most = max(most, stitcher.held)
    assert most < 70


def test_instances_without_a_pixel_are_left_out():
    assert len(stitch(Windows.of([Window(5, 5, 20, 20)]), [(0, instances([box(0, 0, 2, 2, 20)]))])) == 1
    empty = instances([box(0, 0, 2, 2, 20)])
    empty.masks.area[:] = 0
    assert len(stitch(Windows.of([Window(5, 5, 20, 20)]), [(0, empty)])) == 0


def test_windows_must_come_once_and_all():
    windows = Windows.of([Window(0, 0, 10, 10), Window(5, 0, 10, 10)])
    stitcher = Stitcher(windows)
    stitcher.add(0, concatenated([]))
    with pytest.raises(ValueError, match="stitched before"):
        stitcher.add(0, concatenated([]))
    with pytest.raises(ValueError, match="never stitched"):
        stitcher.finish()
    with pytest.raises(ValueError, match="comes twice"):
        Windows.of([Window(0, 0, 10, 10), Window(0, 0, 10, 10)])


def test_rasters_on_one_grid_are_stitched_together_and_overrule_only_what_is_cut():
    tiles = [Window(0, 0, 120, SIDE), Window(80, 0, 120, SIDE)]
    windows = Windows.of(tiles, rasters=[0, 1])
    left, right = views(box(40, 50, 160, 70))
    assert len(stitch(windows, [(0, left), (1, right)])) == 1
    nothing = concatenated([])
    inside, _ = views(box(90, 50, 110, 70))
    assert len(stitch(windows, [(0, inside), (1, nothing)])) == 1, "seen whole: the other shows another day"
    cut, _ = views(box(100, 50, 120, 70))
    assert len(stitch(windows, [(0, cut), (1, nothing)])) == 0
    partly = Windows.of(tiles, rasters=[0, 1], full=[True, False])
    assert len(stitch(partly, [(0, cut), (1, nothing)])) == 1, "the other may be nodata there"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_what_another_raster_saw_does_not_fill_the_nodata_of_ones_own(order):
    """The left raster has nodata from 100 to 120, and its windows say that they held some."""
    tiles = [Window(0, 0, 120, 120), Window(0, 80, 120, 120), Window(80, 0, 120, SIDE)]
    frame, data = box(10, 20, 130, 190), box(0, 0, 100, SIDE)
    found = {at: seen(tile, [frame & data if at < 2 else frame], [0.9], [0]) for at, tile in enumerate(tiles)}

    def stitched(full):
        windows = Windows.of(tiles, rasters=[0, 0, 1], full=full)
        fragments = stitch(windows, [(at, found[at]) for at in order])
        (raster,) = windows.raster[fragments.window].tolist()
        assert raster == 0
        assert fragments.found.boxes.tolist() == [[10, 20, 130, 190]]
        return frames_of(fragments.found.masks, SIDE, SIDE)[0]

    gap = box(100, 0, 120, SIDE)
    assert (stitched([False, False, True]) == (frame & ~gap)).all()
    assert (stitched([True, True, True]) == frame).all(), "all data: what it did not find it may have missed"
    upper = gap & box(0, 0, SIDE, 80)
    assert (stitched([False, True, True]) == (frame & ~upper)).all(), "the lower one saw no nodata"


@pytest.mark.parametrize("side", [500])
def test_a_mosaic_of_four_rasters_equals_the_single_one(side):
    rng = np.random.default_rng(4)
    frames = blobs(rng, 60, side)
    scores, classes = (0.3 + rng.permutation(len(frames)) / 99).tolist(), [0] * len(frames)
    quarters = [Window(x, y, 290, 290) for y in (0, 210) for x in (0, 210)]
    tiles, rasters = [], []
    for number, quarter in enumerate(quarters):
        own = tiled(290, 150, 40)
        tiles += [Window(w.x + quarter.x, w.y + quarter.y, 150, 150) for w in own]
        rasters += [number] * len(own)
    found = [(at, seen(tile, frames, scores, classes)) for at, tile in enumerate(tiles)]
    mosaic = stitch(Windows.of(tiles, rasters), found).found
    order = np.argsort(-np.array(scores))
    assert np.array_equal(frames_of(mosaic.masks, side, side), np.array(frames)[order])


def test_rows_are_ordered_by_score_then_place_whether_all_are_in_memory_or_their_keys_alone():
    rng = np.random.default_rng(2)
    frames = [box(x, y, x + 9, y + 9) for x in (0, 30, 60) for y in (10, 40, 70)]
    found = instances(frames, [0.5, 0.7, 0.7, 0.5, 0.9, 0.7, 0.5, 0.5, 0.5])
    parts = [pick(found, index) for index in np.array_split(rng.permutation(9), 3)]
    together = concatenated(parts)
    order = row_order(np.concatenate([order_keys(part) for part in parts]))
    result = ordered(Fragments(np.zeros(9, np.int64), together)).found
    assert np.array_equal(result.boxes, together.boxes[order])
    places = [tuple(corner) for corner in result.boxes[:, :2].astype(int).tolist()]
    assert places[0] == (30, 40)
    assert places[1:4] == [(0, 40), (0, 70), (30, 70)]
    assert places[4:] == sorted(places[4:], key=lambda at: (at[1], at[0]))


def test_a_generated_field_seen_through_noisy_windows_has_each_thing_once():
    scene = render(5, 640, 640)
    frames = []
    for thing in scene.objects:
        frame = np.zeros((640, 640), bool)
        height, width = thing.mask.shape
        frame[thing.y : thing.y + height, thing.x : thing.x + width] = thing.mask
        frames.append(frame)
    classes = [CATEGORIES.index(thing.category) for thing in scene.objects]
    scores = (0.6 + np.arange(len(frames)) / 1000).tolist()
    rng = np.random.default_rng(0)
    tiles = tiled(640, 256, 48)
    found = []
    for tile in tiles:
        moved = [shifted(frame, *rng.integers(-1, 2, 2)) for frame in frames]
        found.append(seen(tile, moved, (np.array(scores) + rng.normal(0, 0.02)).tolist(), classes))
    windows = Windows.of(tiles)
    result = stitch(windows, enumerate(found)).found
    seams = compare(instances(frames, scores, classes), result, seam_lines(windows), 0.0, 0.0)
    assert len(result) == len(frames)
    assert (seams.excess, seams.lack, seams.duplicates) == (0, 0, 0)
