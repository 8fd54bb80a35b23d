"""Samples of a whole raster from a small part of it: an overview, or blocks spread over it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geo.reader import Raster, View
from pipeline.records import Window

_ENOUGH = 1 << 18
"""Pixels an overview needs to speak for the raster."""
_LITTLE = 1 << 20
"""Pixels that are read whatever part of the raster they are: a hundredth of a small one says nothing."""
_MUCH = 1 << 23
"""Pixels that are read at most."""
_PART = 100
"""Without an overview, one block in so many is read."""
_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Of the sequence (R2) that spreads blocks over a raster evenly, however many are taken."""


def sample(raster: Raster, bands: Sequence[int]) -> NDArray[Any]:
    """(bands, n) valid samples; n is 0 where none was met. The same raster always gives the same.

    Taken from the smallest overview of at least 512 x 512 pixels; without one, from 1 % of the blocks, or
    from a million pixels where that is more.
    """
    view = _overview(raster)
    if view.width * view.height <= _LITTLE or (view.level is not None and view.width * view.height <= _MUCH):
        parts: Iterator[Window] = iter([Window(0, 0, view.width, view.height)])
    else:
        parts = _blocks(view, raster.header.block)
    found = [raster.read(bands, part, view) for part in parts]
    return np.concatenate([pixels.samples[:, pixels.valid] for pixels in found], axis=1)


def _overview(raster: Raster) -> View:
    """The smallest overview that is large enough, or the raster itself."""
    for level in sorted(range(len(raster.header.factors)), key=lambda at: -raster.header.factors[at]):
        width, height = raster.level_size(level)
        if width * height >= _ENOUGH:
            return View(width, height, level, width, height)
    return raster.view


def _blocks(view: View, block: tuple[int, int]) -> Iterator[Window]:
    """Some of the blocks of a view, spread evenly over it."""
    width, height = block
    columns, rows = math.ceil(view.width / width), math.ceil(view.height / height)
    part = min(width * height, view.width * view.height)
    wanted = min(max(columns * rows // _PART, math.ceil(_LITTLE / part)), math.ceil(_MUCH / part))
    places: dict[tuple[int, int], None] = {}
    for number in range(4 * wanted):
        x, y = (
            math.floor(side * ((0.5 + number * step) % 1))
            for side, step in zip((columns, rows), _STEPS, strict=True)
        )
        places[x, y] = None
        if len(places) == min(wanted, columns * rows):
            break
    for x, y in sorted(places, key=lambda place: (place[1], place[0])):
        left, top = x * width, y * height
        yield Window(left, top, min(width, view.width - left), min(height, view.height - top))
