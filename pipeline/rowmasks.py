"""From a row of `instances` to the forms of its mask that others want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from condinst import rle
from condinst.frames import Crops, embed_many
from condinst.instances import RleMasks

Ring = NDArray[np.float64]
"""(n, 2) x, y of corners in image pixels, the last equal to the first."""


def full_frame_rle(row: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """A row's mask as the COCO compressed RLE of its whole image, without decoding it.

    `row` has the column `mask` (as `to_pylist` gives it); `height` and `width` are the image's. Returns
    `{"size": [height, width], "counts": bytes}`, what pycocotools takes. Raises ValueError when the crop lies
    outside.
    """
    mask = row["mask"]
    counts = rle.embed(mask["counts"], mask["x"], mask["y"], mask["height"], mask["width"], height, width)
    return {"size": [height, width], "counts": counts}


def crop(row: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A row's mask as pixels of its crop, (height, width); its top left is at the mask's x and y."""
    mask = row["mask"]
    return rle.decode(mask["counts"], mask["height"], mask["width"])


def polygons(row: Mapping[str, Any]) -> list[list[Ring]]:
    """A row's mask as polygons along its pixels' edges, in image pixels.

    A polygon a part that is connected by edges, each a list of rings: the outline, then its holes. Together
    they cover exactly the mask's pixels; pixel (x, y) covers x to x + 1 and y to y + 1.
    """
    from rasterio.features import shapes

    pixels = crop(row)
    corner = np.array([row["mask"]["x"], row["mask"]["y"]], dtype=np.float64)
    found = shapes(pixels.astype(np.uint8), mask=pixels, connectivity=4)
    return [[np.array(ring) + corner for ring in shape["coordinates"]] for shape, _ in found]


def rle_masks(rows: pa.Table) -> RleMasks:
    """The masks of rows, which have the columns `mask` and `area`, as the model's own masks."""
    masks = combined(rows["mask"])
    x, y, height, width = (
        masks.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "height", "width")
    )
    counts = masks.field("counts").to_pylist()
    return RleMasks(x, y, height, width, combined(rows["area"]).to_numpy(zero_copy_only=False), counts)


def combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def full_frame_counts(
    masks: pa.StructArray, height: NDArray[np.int64], width: NDArray[np.int64]
) -> pa.LargeStringArray:
    """The masks of the column `mask` as COCO compressed RLEs of their whole images, without decoding them.

    `height` and `width` (n,) are the images'. Raises ValueError for a mask that is not inside its image.
    """
    numbers = (masks.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "height", "width"))
    x, y, high, wide = (values.astype(np.int64) for values in numbers)
    strings = masks.field("counts").cast(pa.large_binary())
    _, offsets, data = strings.buffers()
    bounds = np.frombuffer(offsets, np.int64)[strings.offset : strings.offset + len(strings) + 1]
    text = np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]
    text, bounds = embed_many(text, bounds - bounds[0], Crops(x, y, high, wide, height, width))
    return pa.LargeStringArray.from_buffers(len(strings), pa.py_buffer(bounds), pa.py_buffer(text))
