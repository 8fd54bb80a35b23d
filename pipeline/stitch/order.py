"""An order of instances that depends on the instances alone, whatever order they came in."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from condinst.instances import Instances
from pipeline.stitch.regions import Ints

_TIES = {
    "y": np.int32,
    "x": np.int32,
    "height": np.int32,
    "width": np.int32,
    "category": np.int32,
    "area": np.int64,
    "digest": np.uint32,
}
KEY = np.dtype([("score", np.float32), *_TIES.items()])
"""What an instance is ordered by: 36 bytes, so that the keys of a raster fit where its masks do not."""


def order_keys(found: Instances) -> NDArray[np.void]:
    """(n,) of `KEY`: score, the mask's crop, class, area, and a checksum of mask and box."""
    masks, keys = found.masks, np.empty(len(found), KEY)
    keys["score"], keys["category"], keys["area"] = found.scores, found.classes, masks.area
    keys["y"], keys["x"], keys["height"], keys["width"] = masks.y, masks.x, masks.height, masks.width
    data, size = found.boxes.tobytes(), found.boxes.itemsize * 4
    keys["digest"] = [
        crc32(counts, crc32(data[at * size : (at + 1) * size])) for at, counts in enumerate(masks.counts)
    ]
    return keys


def row_order(keys: NDArray[np.void]) -> Ints:
    """The order of a raster's rows: by falling score; ties by the crop's top left, row first, and so on."""
    order: Ints = np.lexsort((*(keys[name] for name in reversed(_TIES)), -keys["score"]))
    return order


def window_order(keys: NDArray[np.void], rank: Ints) -> Ints:
    """The order of fragments: by their windows' rank, then the crop's top left, row first, then the rest."""
    order: Ints = np.lexsort((keys["score"], *(keys[name] for name in reversed(_TIES)), rank))
    return order
