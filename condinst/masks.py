"""Exact full-size masks as crop-local COCO RLE, without a full-frame mask on the way."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condinst import rle
from condinst.boundary import Frame, changes
from condinst.upsample import STRIDE, resize_axis

_CELLS = (
    1 << 23
)  # cells of logits looked at together: bounds the working memory, whatever the number of masks


@dataclass(frozen=True)
class RleMasks:
    """Masks of one image, a column per field.

    `x`, `y`, `height`, `width` (n,) int32 are the tight crop around each mask's pixels (`x`, `y` its top left, in
    image pixels), `area` (n,) int64 its pixels, `counts` the COCO compressed RLE of the crop. A mask without pixels
    is a 1 x 1 crop of area 0 at (0, 0).
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    area: NDArray[np.int64]
    counts: list[bytes]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: NDArray[np.integer] | NDArray[np.bool_] | slice) -> "RleMasks":
        """The masks at these positions, in this order: an array of integers, one of n booleans, or a slice."""
        picked = np.arange(len(self))[index]
        return RleMasks(
            self.x[picked],
            self.y[picked],
            self.height[picked],
            self.width[picked],
            self.area[picked],
            [self.counts[at] for at in picked],
        )

    @staticmethod
    def empty(count: int = 0) -> "RleMasks":
        """`count` masks without pixels."""
        zero, one = np.zeros(count, dtype=np.int32), np.ones(count, dtype=np.int32)
        blank = rle.from_runs(np.array([1]))
        return RleMasks(zero, zero.copy(), one, one.copy(), np.zeros(count, dtype=np.int64), [blank] * count)

    @staticmethod
    def concatenate(parts: Iterable["RleMasks"]) -> "RleMasks":
        """All masks of `parts`, in order."""
        listed = [RleMasks.empty(), *parts]
        columns = [
            np.concatenate([getattr(p, name) for p in listed]) for name in ("x", "y", "height", "width")
        ]
        areas = np.concatenate([part.area for part in listed])
        return RleMasks(*columns, areas, [counts for part in listed for counts in part.counts])


def full_size_masks(
    logits: Tensor, resized: tuple[int, int], size: tuple[int, int], threshold: float = 0.5
) -> RleMasks:
    """Masks at the image's own resolution, the same pixels as the full-frame procedure gives.

    That procedure: sigmoid; aligned bilinear x4 to the padded network input; crop to `resized`, the (height, width)
    the image had there; bilinear to `size`, its own (height, width); above `threshold`. The pixels are those of
    PyTorch's CPU kernels, to the last bit.

    `logits`: (n, h4, w4) float32 at stride 4 of the padded network input. ValueError where the shapes do not fit
    together, or the threshold is not between 0 and 1.
    """
    _check(logits, resized, size, threshold)
    rows = resize_axis(resized[0], size[0], logits.device)
    cols = resize_axis(resized[1], size[1], logits.device)
    frame = Frame(rows, cols, float(np.float32(threshold)))
    step = max(_CELLS // (logits.shape[1] * logits.shape[2]), 1)
    with torch.inference_mode():
        parts = [
            _from_changes(changes(part, frame).cpu().numpy(), len(part), size)
            for part in logits.split(step)
            if len(part)
        ]
    return RleMasks.concatenate(parts)


def _check(logits: Tensor, resized: tuple[int, int], size: tuple[int, int], threshold: float) -> None:
    if logits.ndim != 3 or logits.dtype != torch.float32:
        raise ValueError(f"mask logits must be (n, h4, w4) float32, not {tuple(logits.shape)} {logits.dtype}")
    padded = (STRIDE * logits.shape[1], STRIDE * logits.shape[2])
    if not (1 <= resized[0] <= padded[0] and 1 <= resized[1] <= padded[1]):
        raise ValueError(
            f"resized size {resized} must lie within {padded}, four times that of the mask logits"
        )
    if min(size) < 1:
        raise ValueError(f"output size {size} must be positive")
    if not 1e-3 <= threshold <= 1 - 1e-3:
        raise ValueError(f"mask threshold {threshold} must lie between 0.001 and 0.999")


def _from_changes(keys: NDArray[np.int64], count: int, size: tuple[int, int]) -> RleMasks:
    """RLE of `count` masks from the changes in their columns, as `condinst.boundary.changes` numbers them."""
    masks = RleMasks.empty(count)
    line, y = np.divmod(_odd(np.sort(keys)), size[0] + 1)
    owner, x = np.divmod(line, size[1])
    bounds = np.searchsorted(owner, np.arange(count + 1))
    some = np.flatnonzero(np.diff(bounds))
    if len(some) == 0:
        return masks
    starts = bounds[some]
    left, right = x[starts], x[bounds[some + 1] - 1] + 1
    top, bottom = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    height = bottom - top
    for column, values in (
        (masks.x, left),
        (masks.y, top),
        (masks.height, height),
        (masks.width, right - left),
    ):
        column[some] = values
    # Pixels are numbered down the columns of one crop after another, with one more place at the end of each.
    sizes = height * (right - left)
    origins = np.cumsum(sizes + 1) - (sizes + 1)
    base = np.repeat(origins - left * height - top, np.diff(bounds)[some])
    # A column that ends on where the next begins on has two changes there: they are none.
    edges = _odd(base + x * np.repeat(height, np.diff(bounds)[some]) + y)
    pairs = np.searchsorted(edges, origins) // 2
    masks.area[some] = np.add.reduceat(edges[1::2] - edges[::2], pairs)
    for at, counts in zip(some.tolist(), _strings(edges, origins, sizes), strict=True):
        masks.counts[at] = counts
    return masks


def _strings(edges: NDArray[np.int64], origins: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[bytes]:
    """Compressed RLE of each crop: `edges` are the changes of all, `origins` the number of each crop's first pixel."""
    points = np.sort(np.concatenate([origins, edges, origins + sizes]))
    ends = np.searchsorted(points, origins + sizes, side="right")
    lengths = np.diff(points)
    kept = np.ones(len(lengths), dtype=bool)
    kept[ends[:-1] - 1] = False  # from one crop's end to the next one's origin
    kept[ends - 2] = lengths[ends - 2] > 0  # a crop that ends on has no last run of zeros
    bounds = np.concatenate([[0], np.cumsum(kept)])[np.append(0, np.minimum(ends, len(lengths)))]
    return rle.from_many_runs(lengths[kept], bounds)


def _odd(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values that appear an odd number of times among these sorted ones, once each."""
    fresh = np.concatenate([[True], values[1:] != values[:-1]]) if len(values) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(fresh)
    times = np.diff(starts, append=len(values))
    return values[starts[times % 2 == 1]]
