"""How a raster is cut into windows: pure arithmetic over its size, listed only as far as somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.records import Window

BAND = 32
"""Rows of windows a band has: a shard of 1,000 windows is then about as wide as it is high."""


class Borders(NamedTuple):
    """The sides of a window beyond which another window of its grid goes on; what lies there may be cut."""

    left: bool
    top: bool
    right: bool
    bottom: bool


@dataclass(frozen=True)
class Grid:
    """Windows of one size over a rectangle of a raster; build it with `windows`.

    They come in bands of `BAND` rows, a band column by column, a column from top to bottom. So any stretch of
    them is a compact patch of the ground, a band ends before the next one begins, and of what came before
    only the last column and the last band's lower edge have neighbours to come.
    """

    lefts: Sequence[int]
    """x of each column of windows, rising."""
    tops: Sequence[int]
    """y of each row of windows, rising."""
    size: int
    """Width and height of every window in pixels."""

    def __len__(self) -> int:
        return len(self.lefts) * len(self.tops)

    def __getitem__(self, number: int) -> Window:
        row, column = self.place(number)
        return Window(self.lefts[column], self.tops[row], self.size, self.size)

    def __iter__(self) -> Iterator[Window]:
        return (self[number] for number in range(len(self)))

    def place(self, number: int) -> tuple[int, int]:
        """Row and column of the window of that number; IndexError where there is none."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        band, within = divmod(number, BAND * len(self.lefts))
        column, row = divmod(within, self._rows(band))
        return band * BAND + row, column

    def number(self, row: int, column: int) -> int:
        """The window's number from its row and column."""
        band, within = divmod(row, BAND)
        return band * BAND * len(self.lefts) + column * self._rows(band) + within

    def borders(self, number: int) -> Borders:
        """Which sides of a window lie inside the grid."""
        row, column = self.place(number)
        last_row, last_column = len(self.tops) - 1, len(self.lefts) - 1
        return Borders(column > 0, row > 0, column < last_column, row < last_row)

    def _rows(self, band: int) -> int:
        return min(BAND, len(self.tops) - band * BAND)


def windows(
    width: int,
    height: int,
    size: int,
    overlap: int,
    area: Window | None = None,
    grid: int = 1,
    phase: tuple[int, int] = (0, 0),
) -> Grid:
    """Cut a raster of `width` x `height` pixels into windows of `size` x `size` that overlap by `overlap`.

    They lie at even distances, the last of a row and of a column shifted inward. With `area`, they cover that
    part of the raster alone; where it is smaller than `size` it is widened.

    All begin on multiples of `grid` pixels, counted from `phase` (x, y) pixels left of and above the raster,
    because of a network's strides: it says other things of a picture that lies otherwise under its coarsest
    maps. So they overlap by `overlap` or by less than a `grid` more, and the first and the last may reach
    beyond the raster, by less than a `grid`. Otherwise only windows larger than the raster do. Windows whose
    distance is less than a `grid` lie anywhere.

    Raises ValueError for sizes that cannot be, and for an area outside the raster.
    """
    if width < 1 or height < 1 or size < 1 or not 0 <= overlap < size:
        raise ValueError(
            f"windows of {size} pixels that overlap by {overlap} cannot cover {width}x{height} pixels: "
            "sizes must be positive and the overlap smaller than the window"
        )
    left, top, right, bottom = 0, 0, width, height
    if area is not None:
        left, top = max(0, area.x), max(0, area.y)
        right, bottom = min(width, area.x + area.width), min(height, area.y + area.height)
        if left >= right or top >= bottom:
            raise ValueError(f"{area} lies outside the raster of {width}x{height} pixels")
    steps = _Steps(size, size - overlap, grid if size - overlap >= grid else 1)
    return Grid(steps.over(left, right, width, phase[0]), steps.over(top, bottom, height, phase[1]), size)


@dataclass(frozen=True)
class _Steps:
    """Windows of `size` along an axis, `distance` apart at most, on multiples of `grid`."""

    size: int
    distance: int
    grid: int

    def over(self, begin: int, end: int, length: int, phase: int) -> Sequence[int]:
        """Where those begin that cover [begin, end) of an axis of `length` pixels."""
        first = (max(0, min(begin, length - self.size)) + phase) // self.grid
        last = max(first, -(-(end - self.size + phase) // self.grid))
        places = (*range(first, last, self.distance // self.grid), last)
        return tuple(place * self.grid - phase for place in places)


def inside(window: Window, width: int, height: int) -> Window:
    """The part of a window that lies inside a raster of `width` x `height` pixels."""
    left, top = max(0, window.x), max(0, window.y)
    right, bottom = min(width, window.x + window.width), min(height, window.y + window.height)
    return Window(left, top, max(0, right - left), max(0, bottom - top))
