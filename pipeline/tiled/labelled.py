"""Labels drawn on a map as masks in the windows of a raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from condinst.instances import RleMasks
from pipeline.geo.georef import Georef
from pipeline.geo.vector_labels import MapLabels
from pipeline.records import Window
from pipeline.tiled.nodata import tight


@dataclass(frozen=True)
class Labelled:
    """The labels of one window."""

    masks: RleMasks
    classes: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """Which of the `MapLabels` each is."""
    cut: int
    """Labels of which too little is in the window to count."""


class RasterLabels:
    """Labels in a raster's pixels."""

    def __init__(self, labels: MapLabels, georef: Georef, width: int, height: int) -> None:
        """Raises ValueError where there is no way from the labels' CRS to the raster's."""
        self._shapes, self._numbers = labels.near(georef, width, height)
        self._classes = labels.classes[self._numbers]
        self._tree = shapely.STRtree(self._shapes)

    def within(self, part: Window, valid: NDArray[np.bool_] | None, least: float) -> Labelled:
        """The labels in a part of the raster, as masks in its pixels: those whose centres they hold.

        `valid` (height, width) is false on nodata. Of a label at least the share `least` must be there.
        """
        box = shapely.box(part.x, part.y, part.x + part.width, part.y + part.height)
        masks, found, cut = [], [], 0
        for at in np.sort(self._tree.query(box, predicate="intersects")):
            mask = _mask(self._shapes[at], part, valid)
            if mask is None or mask.area[0] < least * self._shapes[at].area:
                cut += 1
            else:
                masks.append(mask)
                found.append(at)
        rows = np.array(found, np.int64)
        return Labelled(RleMasks.concatenate(masks), self._classes[rows], self._numbers[rows], cut)


def _mask(shape: Any, part: Window, valid: NDArray[np.bool_] | None) -> RleMasks | None:
    """A polygon's pixels in a part of its raster; None where it has none."""
    left, top, right, bottom = shape.bounds
    x0, y0 = max(int(np.floor(left)), part.x), max(int(np.floor(top)), part.y)
    x1 = min(int(np.ceil(right)), part.x + part.width)
    y1 = min(int(np.ceil(bottom)), part.y + part.height)
    if x1 <= x0 or y1 <= y0:
        return None
    place = rasterio.Affine.translation(x0, y0)
    pixels = rasterize([shape], out_shape=(y1 - y0, x1 - x0), transform=place, dtype=np.uint8).astype(bool)
    x, y = x0 - part.x, y0 - part.y
    if valid is not None:
        pixels &= valid[y : y + pixels.shape[0], x : x + pixels.shape[1]]
    return tight(pixels, x, y) if pixels.any() else None
