"""Exact full-size masks as crop-local COCO RLE, without a full-frame mask on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condinst import rle
from condinst.boundary import Frame, Squares, changes, mixed_squares
from condinst.instances import RleMasks
from condinst.transfer import Copies, onto
from condinst.upsample import STRIDE, side_by_side, weights_first

# All bound the working memory, whatever the number of masks and the size of the image. A GPU is waited for a
# few times for each piece, and is idle then: it gets larger ones.
_CELLS, _GPU_CELLS = 1 << 22, 1 << 26  # of logits looked at together
_CHANGES, _GPU_CHANGES = 1 << 20, 1 << 24  # of masks encoded together, roughly

_THRESHOLDS = (0.001, 0.999)  # float32 sigmoids resolve the search's margin between these

Ints = NDArray[np.int64]
Sizes = tuple[tuple[int, int], tuple[int, int]]
"""Of an image: (height, width) in the network's input, before padding, and its own."""


@dataclass(frozen=True)
class MaskChanges:
    """Where some masks change, found on a device: to encode them is left, and is the host's alone."""

    numbers: Copies
    """(k,) int64, as `condinst.boundary.changes` gives them."""
    instances: range
    """Of the masks."""
    size: tuple[int, int]
    """(height, width) that the numbers are of, the largest of the images'."""

    def masks(self) -> RleMasks:
        """The masks; waits for the device where it is still at work, and may be called in any thread."""
        (numbers,) = self.numbers.tensors()
        return _masks(numbers.numpy(), self.instances, self.size)


def full_size_masks(
    logits: Tensor, resized: tuple[int, int], size: tuple[int, int], threshold: float = 0.5
) -> RleMasks:
    """Masks at the image's own resolution: the very pixels of the full-frame procedure.

    That procedure: sigmoid; aligned bilinear x4 to the padded network input; crop to `resized`, the (height,
    width) of the image in it; bilinear to `size`, the image's own (height, width); above `threshold`. Pixels
    are those of PyTorch's CPU kernels to the last bit; a logit that is not a number counts as off.

    `logits`: (n, h4, w4) float32, stride 4 of the padded network input. ValueError where they are not, where
    `resized` is larger than that input or a size is not positive, and for a threshold next to 0 or 1.
    """
    with torch.inference_mode():
        changes = mask_changes(logits, [((resized, size), len(logits))], threshold)
        return RleMasks.concatenate(part.masks() for part in changes)


Kind = tuple[bool, bool, int, int]


def kind(sizes: Sizes) -> Kind:
    """What images have in common whose masks may go through `mask_changes` together.

    Whether they are resized, by which of PyTorch's kernels, and by how much, roughly: cells of all are worked
    through at the size of the largest.
    """
    resized, size = sizes
    down, across = (-(-full // net) for full, net in zip(size, resized, strict=True))
    return resized == size, weights_first(*size), down, across


def mask_changes(
    logits: Tensor, images: Sequence[tuple[Sizes, int]], threshold: float = 0.5
) -> Iterator[MaskChanges]:
    """What `full_size_masks` does on the logits' device, in pieces whose masks follow each other.

    `images`: how many of the masks are each one's, an image's after another's. For inference mode. Raises as
    `full_size_masks`, and ValueError for images of several kinds or numbers that do not make up the masks.
    """
    for (resized, size), _ in images:
        _check(logits, resized, size, threshold)
    if len({kind(sizes) for sizes, _ in images}) > 1 or sum(count for _, count in images) != len(logits):
        raise ValueError(f"{len(logits)} masks are not those of images of one kind: {images}")
    return _in_parts(logits, _frame(images, threshold, logits.device))


def _in_parts(logits: Tensor, frame: Frame) -> Iterator[MaskChanges]:
    cells = _GPU_CELLS if logits.is_cuda else _CELLS
    step = max(cells // (logits.shape[1] * logits.shape[2]), 1)
    for at in range(0, len(logits), step):
        image = None if frame.image is None else frame.image[at : at + step]
        yield from _changed(logits[at : at + step], replace(frame, image=image))


def _frame(images: Sequence[tuple[Sizes, int]], threshold: float, device: torch.device) -> Frame:
    rows, cols = (
        side_by_side([(resized[axis], size[axis]) for (resized, size), _ in images], device)
        for axis in (0, 1)
    )
    image = None
    if len({sizes for sizes, _ in images}) > 1:
        counts = torch.tensor([count for _, count in images])
        image = onto(torch.arange(len(images)).repeat_interleave(counts), device)
    return Frame(rows, cols, float(np.float32(threshold)), image)


def _check(logits: Tensor, resized: tuple[int, int], size: tuple[int, int], threshold: float) -> None:
    if logits.ndim != 3 or logits.dtype != torch.float32:
        raise ValueError(f"mask logits must be (n, h4, w4) float32, not {tuple(logits.shape)} {logits.dtype}")
    padded = (STRIDE * logits.shape[1], STRIDE * logits.shape[2])
    if not (1 <= resized[0] <= padded[0] and 1 <= resized[1] <= padded[1]):
        raise ValueError(
            f"resized size {resized} must lie within the padded input {padded} of the mask logits"
        )
    if min(size) < 1:
        raise ValueError(f"output size {size} must be positive")
    if not _THRESHOLDS[0] <= threshold <= _THRESHOLDS[1]:
        raise ValueError(f"mask threshold {threshold} must lie between {_THRESHOLDS[0]} and {_THRESHOLDS[1]}")


def _changed(logits: Tensor, frame: Frame) -> Iterator[MaskChanges]:
    """The changes of all instances, in pieces of some `_CHANGES` or of one instance."""
    squares, most = mixed_squares(logits, frame), _GPU_CHANGES if logits.is_cuda else _CHANGES
    # A square changes about once in each of its output columns where it is at its worst.
    widths = zip(frame.cols.targets, frame.cols.sources, strict=True)
    worst = STRIDE * max(target / source for target, source in widths)
    if len(squares) * worst < most:
        yield _piece(logits, squares, range(len(logits)), frame)
        return
    totals = torch.bincount(squares.instance, minlength=len(logits)).cumsum(0).cpu().numpy()
    pieces = totals * worst // most
    first = 0
    for last in np.searchsorted(pieces, np.unique(pieces), side="right").tolist():
        part = squares[totals[first - 1] if first else 0 : totals[last - 1]]
        yield _piece(logits, part, range(first, last), frame)
        first = last


def _piece(logits: Tensor, squares: Squares, instances: range, frame: Frame) -> MaskChanges:
    numbers = changes(logits, squares, frame)
    if numbers.is_cuda:
        numbers = _odd_there(numbers)  # sooner sorted there than copied from there
    return MaskChanges(Copies(numbers), instances, (max(frame.rows.targets), max(frame.cols.targets)))


def _masks(numbers: Ints, instances: range, size: tuple[int, int]) -> RleMasks:
    """Masks of `instances` from the changes in their columns, as `condinst.boundary.changes` numbers them."""
    masks = RleMasks.empty(len(instances))
    column, y = np.divmod(_odd(np.sort(numbers)), size[0] + 1)
    owner, x = np.divmod(column, size[1])
    owner -= instances.start
    some, starts, times = np.unique(owner, return_index=True, return_counts=True)
    left, right = x[starts], x[starts + times - 1] + 1
    top, bottom = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    height, width = bottom - top, right - left
    masks.x[some], masks.y[some], masks.height[some], masks.width[some] = left, top, height, width
    # Crops are numbered one after another, each down its columns, with one more place at its end.
    origins = np.cumsum(height * width + 1) - (height * width + 1)
    # A column that is on at its end before one that is on at its start has two changes there: they are none.
    edges = _odd(np.repeat(origins - left * height - top, times) + x * np.repeat(height, times) + y)
    masks.area[some] = np.add.reduceat(edges[1::2] - edges[::2], np.searchsorted(edges, origins) // 2)
    for at, counts in zip(some.tolist(), _strings(edges, origins, height * width), strict=True):
        masks.counts[at] = counts
    return masks


def _strings(edges: Ints, origins: Ints, sizes: Ints) -> list[bytes]:
    """Compressed RLE of crops: the changes in all of them, and the number of each one's first pixel."""
    points = np.sort(np.concatenate([origins, edges, origins + sizes]))
    ends = np.searchsorted(points, origins + sizes, side="right") - 1
    lengths = np.append(np.diff(points), 0)
    kept = np.ones(len(lengths), dtype=bool)
    kept[ends] = False  # from the end of a crop to the origin of the next
    kept[ends - 1] = lengths[ends - 1] > 0  # a crop that is on at its end has no run of zeros after it
    return rle.from_many_runs(lengths[kept], np.append(0, np.cumsum(kept)[ends]))


def _odd_there(values: Tensor) -> Tensor:
    """Those of any values that appear an odd number of times, once each and sorted, on their device."""
    kept, times = torch.unique_consecutive(values.sort().values, return_counts=True)
    odd: Tensor = kept[times % 2 == 1]
    return odd


def _odd(values: Ints) -> Ints:
    """Those of sorted values that appear an odd number of times, once each."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    kept: Ints = values[starts[np.diff(starts, append=len(values)) % 2 == 1]]
    return kept
