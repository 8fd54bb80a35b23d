"""The measure of seams."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from jobs.seams import threshold_of
from pipeline.records import Window
from pipeline.stitch import Windows
from pipeline.stitch.fragments import concatenated, pick
from pipeline.stitch.seams import compare, seam_lines
from tests.unit.stitching import ellipse, instances

SIDE = 300
WINDOWS = Windows.of([Window(0, 0, 160, SIDE), Window(140, 0, 160, SIDE)])
SEAMS = seam_lines(WINDOWS)
FRAMES = [ellipse(SIDE, x, y, 12, 9) for x in (40, 150, 260) for y in range(20, 300, 40)]
FOUND = instances(FRAMES, [0.6 + at / 100 for at in range(len(FRAMES))])
ALONG = np.array([100 < (box[0] + box[2]) / 2 < 200 for box in FOUND.boxes])


def test_seams_are_the_borders_that_other_windows_go_beyond():
    assert SEAMS.tolist() == [[140, 0, 140, SIDE], [160, 0, 160, SIDE]]


def test_equal_segmentations_match_wholly():
    seams = compare(FOUND, FOUND, SEAMS, 0.5)
    assert (seams.matched, seams.duplicates, seams.excess, seams.lack) == (1, 0, 0, 0)
    assert seams.tiled.along_seams == ALONG.sum()


def test_what_is_missing_or_too_much_along_a_seam_is_told_from_what_is_elsewhere():
    along, far = np.flatnonzero(ALONG), np.flatnonzero(~ALONG)
    less = pick(FOUND, np.setdiff1d(np.arange(len(FOUND)), [along[0], far[0], far[1]]))
    lacking = compare(FOUND, less, SEAMS, 0.5)
    assert lacking.lack == 1 / len(along)
    assert lacking.excess == 0
    assert lacking.reference.alone_elsewhere == 2
    assert lacking.matched == (len(FOUND) - 3) / len(FOUND)
    more = compare(less, FOUND, SEAMS, 0.5)
    assert more.excess == 1 / (len(along) - 1)
    assert more.tiled.alone_elsewhere == 2


def test_a_second_instance_on_a_thing_is_a_duplicate():
    half = FRAMES[3].copy()
    half[:, :40] = False
    twice = concatenated([FOUND, instances([FRAMES[0], half])])
    seams = compare(FOUND, twice, SEAMS, 0.5)
    assert seams.duplicates == 2 / len(twice)
    assert seams.matched == 1
    # One that is simply wrong is none, nor is one that the reference has twice too.
    wrong = concatenated([FOUND, instances([ellipse(SIDE, 95, 150, 9, 9)])])
    assert compare(FOUND, wrong, SEAMS, 0.5).duplicates == 0
    assert compare(twice, twice, SEAMS, 0.5).duplicates == 0


def test_a_mask_with_an_iou_below_nine_tenths_is_found_but_not_the_same():
    moved = instances([np.roll(frame, 2, 1) for frame in FRAMES], FOUND.scores.tolist())
    seams = compare(FOUND, moved, SEAMS, 0.5)
    assert seams.matched == 0
    assert (seams.excess, seams.lack, seams.duplicates) == (0, 0, 0)


def test_instances_close_to_the_threshold_are_left_out_but_partner_others():
    low = pick(FOUND, np.arange(len(FOUND)))
    low.scores[:] -= 0.08  # some fall below 0.55
    dropped = pick(low, low.scores >= 0.54)
    counted = int((FOUND.scores >= 0.65).sum())
    seams = compare(FOUND, dropped, SEAMS, 0.6)
    assert seams.reference.instances == counted
    assert seams.matched == 1
    assert seams.lack == 0


def test_another_class_is_another_thing():
    other = pick(FOUND, np.arange(len(FOUND)))
    other.classes[:] = 1
    seams = compare(FOUND, other, SEAMS, 0.5)
    assert (seams.matched, seams.excess, seams.lack) == (0, 1, 1)


def test_the_threshold_is_what_the_job_recorded_or_an_older_one_stated():
    stated = {"settings": {"detect": {"score_threshold": 0.3}}}
    for job, want in (({"score_threshold": 0.35, **stated}, 0.35), (stated, 0.3), ({"settings": {}}, 0.0)):
        assert threshold_of(SimpleNamespace(job=job)) == want
