"""Windows of a raster: all of one size, all inside, all of it covered."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geo.windows import BAND, Grid, inside, windows
from pipeline.records import Window

SIDES = st.integers(1, 5000)


GRIDS = st.sampled_from([1, 32, 16, 64, 107, 46])


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    size = draw(st.integers(1, 700))
    overlap = draw(st.integers(0, max(0, size - max(1, size // 4))))
    return draw(SIDES), draw(SIDES), size, min(overlap, size - 1)


def covered(starts: list[int], size: int, begin: int, end: int, overlap: int) -> bool:
    """Whether stretches of `size` from `starts` on cover [begin, end), each overlapping the one before."""
    steps = all(0 < after - before <= size - overlap for before, after in pairwise(starts))
    return starts[0] <= begin and starts[-1] + size >= end and steps


@given(cuts(), GRIDS)
def test_windows_cover_the_raster_with_one_size_and_at_least_the_overlap(
    cut: tuple[int, int, int, int], step: int
) -> None:
    width, height, size, overlap = cut
    grid = windows(*cut, grid=step)
    assert covered(list(grid.lefts), size, 0, width, overlap)
    assert covered(list(grid.tops), size, 0, height, overlap)
    for number in {0, len(grid) // 2, len(grid) - 1}:
        window = grid[number]
        assert (window.width, window.height) == (size, size)
        # Outside by less than the grid, except where the raster is smaller than a window.
        assert window.x >= 0
        assert window.y >= 0
        assert window.x + size < max(width, size) + step
        assert window.y + size < max(height, size) + step


@given(cuts(), GRIDS, st.integers(0, 4000), st.integers(0, 31))
def test_windows_lie_on_the_grid_whatever_the_area(
    cut: tuple[int, int, int, int], step: int, x: int, phase: int
) -> None:
    width, height, size, overlap = cut
    area = Window(min(x, width - 1), 0, 900, 900)
    grid = windows(*cut, area, step, (phase, 0))
    assert all(inside(window, width, height).width > 0 for window in grid)
    if size - overlap >= step:
        assert all((left + phase) % step == 0 for left in grid.lefts)
        assert all(after - before > size - overlap - step for before, after in pairwise(grid.lefts[:-1]))


@given(cuts(), GRIDS, st.data())
def test_an_area_is_covered_from_inside_the_raster(
    cut: tuple[int, int, int, int], step: int, data: st.DataObject
) -> None:
    width, height, size, overlap = cut
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    area = Window(x, y, data.draw(st.integers(1, 6000)), data.draw(st.integers(1, 6000)))
    grid = windows(*cut, area, step)
    part = inside(area, width, height)
    assert covered(list(grid.lefts), size, part.x, part.x + part.width, overlap)
    assert covered(list(grid.tops), size, part.y, part.y + part.height, overlap)
    # What lies beyond the area is there only to make a window whole.
    assert grid.lefts[-1] + size < max(part.x + part.width, min(part.x, width - size) + size, size) + step
    assert grid.lefts[0] >= 0
    assert grid.lefts[-1] + size < max(width, size) + step


@given(st.integers(1, 200), st.integers(1, 200))
def test_numbers_and_places_are_the_same_thing(columns: int, rows: int) -> None:
    grid = Grid(range(columns), range(rows), 1)
    assert len(grid) == columns * rows
    for number in {0, len(grid) // 3, len(grid) // 2, len(grid) - 1}:
        assert grid.number(*grid.place(number)) == number
    assert len({grid.number(row, column) for row in range(rows) for column in range(columns)}) == len(grid)
    with pytest.raises(IndexError):
        grid[len(grid)]


def test_a_stretch_of_windows_is_a_compact_patch() -> None:
    grid = windows(60_000, 60_000, 1024, 128)
    for start in range(0, len(grid) - 1000, 777):
        places = [grid.place(number) for number in range(start, start + 1000)]
        bands = {row // BAND for row, _ in places}
        assert len(bands) <= 2
        for band in bands:
            columns = [column for row, column in places if row // BAND == band]
            # Columns of a band follow each other: as many as its windows fill, and one begun at either end.
            high = min(BAND, len(grid.tops) - band * BAND)
            assert max(columns) - min(columns) + 1 <= len(columns) // high + 2


def test_bands_come_one_after_another() -> None:
    grid = windows(3000, 50_000, 512, 64)
    bands = [grid.place(number)[0] // BAND for number in range(len(grid))]
    assert bands == sorted(bands)


def test_borders_are_the_sides_with_a_neighbour() -> None:
    grid = windows(2000, 1000, 1024, 128)
    assert [tuple(grid.borders(number)) for number in range(len(grid))] == [
        (False, False, True, False),
        (True, False, True, False),
        (True, False, False, False),
    ]
    assert [window.x for window in grid] == [0, 896, 976]
    small = windows(300, 200, 1024, 128)
    assert list(small) == [Window(0, 0, 1024, 1024)]
    assert inside(small[0], 300, 200) == Window(0, 0, 300, 200)


@pytest.mark.parametrize("bad", [(0, 5, 4, 1), (5, 5, 0, 0), (5, 5, 4, 4), (5, 5, 4, -1)])
def test_what_cannot_be_is_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot cover"):
        windows(*bad)
    with pytest.raises(ValueError, match="outside the raster"):
        windows(100, 100, 10, 1, Window(100, 0, 5, 5))
