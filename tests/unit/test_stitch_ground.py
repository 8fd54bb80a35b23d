"""Rasters that overlap on the ground."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from pipeline.stitch.ground import duplicates, grid_offset

NORTH_UP = (0.05, 0.0, 386_200.0, 0.0, -0.05, 6_471_800.0)


@pytest.mark.parametrize("at", [(0, 0), (210, 0), (-17, 4030)])
def test_rasters_on_one_grid_have_a_whole_offset(at):
    a, b, c, d, e, f = NORTH_UP
    other = (a, b, c + a * at[0], d, e, f + e * at[1])
    assert grid_offset(NORTH_UP, other, (40_000, 40_000)) == at


@pytest.mark.parametrize(
    "change",
    [(0, 0, 0.02, 0, 0, 0), (1e-6, 0, 0, 0, 0, 0), (0, 1e-5, 0, 1e-5, 0, 0), (0.05, 0, 0, 0, -0.05, 0)],
)
def test_grids_that_part_within_the_raster_have_none(change):
    other = tuple(np.add(NORTH_UP, change))
    assert grid_offset(NORTH_UP, other, (40_000, 40_000)) is None


def turned(shape, degrees=3):
    return shapely.affinity.rotate(shape, degrees)


def test_of_a_thing_in_two_rasters_the_view_farther_inside_stays():
    footprints = np.array([shapely.box(0, 0, 100, 100), shapely.box(60, 0, 160, 100)])
    shapes = [
        shapely.box(10, 10, 20, 20),  # seen by the first alone
        shapely.box(65, 10, 75, 20),
        turned(shapely.box(65, 10, 75, 20)),  # 5 from the second's outline, 25 from the first's
        shapely.box(90, 40, 100, 60),  # cut by the first's outline
        turned(shapely.box(90, 40, 120, 60), 1),
        shapely.box(70, 70, 80, 80),  # touch, and are two
        shapely.box(80, 70, 90, 80),
    ]
    raster = np.array([0, 0, 1, 0, 1, 0, 1])
    worse = duplicates(np.array(shapes), np.zeros(7, np.int64), raster, footprints)
    assert worse.tolist() == [False, False, True, True, False, False, False]


def test_classes_and_rasters_must_differ_as_they_do_in_stitching():
    footprints = np.array([shapely.box(0, 0, 100, 100), shapely.box(0, 0, 100, 100)])
    shapes = np.array([shapely.box(10, 10, 20, 20)] * 3)
    worse = duplicates(shapes, np.array([0, 1, 0]), np.array([0, 1, 0]), footprints)
    assert not worse.any()
