"""The arithmetic of the reference's two bilinear resizes, reproduced to the last bit.

The full-frame procedure runs `F.interpolate` twice. PyTorch's CPU kernels fuse multiplications with
additions in an order of their own, and in another order for small outputs. Whether a pixel is on can hang on
one rounding, so the same order is followed here, with float64 for what is fused: a product of two float32 is
exact in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condinst.transfer import onto

STRIDE = 4
"""Pixels of the padded network input for one cell of the mask logits."""

Corners = tuple[Tensor, Tensor, Tensor, Tensor]
"""Values at the top left, top right, bottom left and bottom right of squares."""

_SMALL_OUTPUT = 128


Length = int | Tensor
"""Of one image; or (m,) int64, of m things each its own image's."""


@dataclass(frozen=True, eq=False)
class Axis:
    """How resized images map to their outputs along one axis: one image, or several with each its own sizes.

    Output pixels [first[i], first[i + 1]) lie between the source's pixels i and i + 1, past its last if i is
    that, and are their sum with the weights `near` and `far`. The tables of several lie one after another.
    """

    sources: tuple[int, ...]
    """Pixels of the resized images; of each pair of source and target once."""
    targets: tuple[int, ...]
    """Pixels of the outputs, likewise."""
    near: Tensor
    """(targets,) float32."""
    far: Tensor
    """(targets,) float32."""
    first: Tensor
    """(sources + one each,) int64."""
    most: int
    """Output pixels in the longest interval."""
    usual: int
    """The same without the first interval, to which the pixels before the source's first pixel are added."""
    places: Tensor | None = None
    """(4, images) int64 of several: source, target, where they begin in `near` and `far`, and in `first`."""

    def of(self, image: Tensor | None) -> "Along":
        """The axis of things of images, (m,) int64; of a single image's, whatever `image` is."""
        if self.places is None or image is None:
            return Along(self, self.sources[0], self.targets[0])
        return Along(self, *self.places.index_select(1, image).unbind())


@dataclass(frozen=True)
class Along:
    """An axis as m things see it, each that of its own image; tables are asked by (..., m) int64."""

    axis: Axis
    source: Length
    target: Length
    weights: Tensor | None = None
    """Where the pixels of each begin in the tables; None: at their start."""
    intervals: Tensor | None = None

    def first(self, at: Tensor) -> Tensor:
        """The first output pixel of the intervals `at`."""
        return pick(self.axis.first, _behind(at, self.intervals))

    def filled(self, at: Tensor) -> Tensor:
        """Whether any output pixel lies in the intervals `at`."""
        return pick(self.axis.first.diff() > 0, _behind(at, self.intervals))

    def shares(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (near, far) of the output pixels `at`."""
        at = _behind(at, self.weights)
        return pick(self.axis.near, at), pick(self.axis.far, at)


@lru_cache(maxsize=256)
def resize_axis(source: int, target: int, device: torch.device) -> Axis:
    """The map of `F.interpolate(mode="bilinear", align_corners=False)` along one axis.

    A job's images have few sizes, and on a GPU each map is copied there: so they are kept, and not to be
    changed.
    """
    with torch.inference_mode(False):
        return _axis([(source, target)], device, None)


def side_by_side(sizes: Sequence[tuple[int, int]], device: torch.device) -> Axis:
    """The maps of several images, (source, target) each; that of any where all are the same."""
    own = list(dict.fromkeys(sizes))
    if len(own) == 1:
        return resize_axis(*own[0], device)
    starts = [np.cumsum([0, *(size[end] + 1 - end for size in own)]) for end in (1, 0)]
    places = [(*size, *(int(start[own.index(size)]) for start in starts)) for size in sizes]
    return _axis(own, device, onto(torch.tensor(places, dtype=torch.int64).T.contiguous(), device))


def _axis(sizes: Sequence[tuple[int, int]], device: torch.device, places: Tensor | None) -> Axis:
    firsts, fars = zip(*(_tables(*size) for size in sizes), strict=True)
    far = np.concatenate(fars)
    lengths = [np.diff(first) for first in firsts]
    return Axis(
        tuple(source for source, _ in sizes),
        tuple(target for _, target in sizes),
        near=onto(torch.from_numpy(np.float32(1) - far), device),
        far=onto(torch.from_numpy(far), device),
        first=onto(torch.from_numpy(np.concatenate(firsts)), device),
        most=max(int(one.max()) for one in lengths),
        usual=max(int(one[1:].max(initial=0)) for one in lengths),
        places=places,
    )


@lru_cache(maxsize=1024)
def _tables(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`Axis.first` and `Axis.far` of one image."""
    low = np.arange(target, dtype=np.int64)
    far = np.zeros(target, dtype=np.float32)
    if source != target:
        scale = np.float32(source) / np.float32(target)
        centre = np.arange(target, dtype=np.float32) + np.float32(0.5)
        # A fused multiply-subtract: float64 holds it exactly up to the one rounding to float32.
        position = (centre.astype(np.float64) * np.float64(scale) - 0.5).astype(np.float32)
        position = np.maximum(position, np.float32(0))
        low = np.minimum(position.astype(np.int64), source - 1)
        far = np.clip(position - low.astype(np.float32), 0, 1).astype(np.float32)
    return np.searchsorted(low, np.arange(source + 1)), far


def _behind(at: Tensor, start: Tensor | None) -> Tensor:
    return at if start is None else at + start


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` along the first dimension; indexing itself starts threads for a few values already."""
    return values.index_select(0, index.reshape(-1)).view(*index.shape, *values.shape[1:])


def weights_first(height: int, width: int) -> bool:
    """Whether PyTorch resizes to this output by its kernel for small ones.

    That kernel multiplies the weights of the two axes; the other goes along one axis, then along the other.
    """
    return height + width <= _SMALL_OUTPUT


def lerp(near: Tensor, near_weight: Tensor, far: Tensor, far_weight: Tensor) -> Tensor:
    """`near * near_weight + far * far_weight` in float32, rounded as PyTorch's CPU kernels round it."""
    return _fused(near, near_weight, far * far_weight)


def bilinear(
    corners: Corners, rows: tuple[Tensor, Tensor], cols: tuple[Tensor, Tensor], joint: bool
) -> Tensor:
    """Bilinear float32 values between `corners`, all broadcastable.

    `rows` and `cols` are the weights (near, far) along each axis; `joint` is `weights_first` of the output.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    if not joint:
        top = lerp(top_left, cols[0], top_right, cols[1])
        return lerp(top, rows[0], lerp(bottom_left, cols[0], bottom_right, cols[1]), rows[1])
    value = _fused(top_left, rows[0] * cols[0], top_right * (rows[0] * cols[1]))
    value = _fused(bottom_left, rows[1] * cols[0], value)
    return _fused(bottom_right, rows[1] * cols[1], value)


def quarter_grid(corners: Corners, joint: bool) -> Tensor:
    """The 5 x 5 samples a quarter of a cell apart in squares of neighbouring cells, both ends included.

    `corners` are (m,) each; returns (5, 5, m) float32: row, column, square. Samples on a side shared by two
    squares come out equal, bit for bit, from both.
    """
    far = torch.arange(STRIDE + 1, dtype=torch.float32, device=corners[0].device) / STRIDE
    cols = ((1 - far).view(1, -1, 1), far.view(1, -1, 1))
    rows = ((1 - far[:-1]).view(-1, 1, 1), far[:-1].view(-1, 1, 1))
    body = bilinear(corners, rows, cols, joint)
    # The last row is the first one of the square below, where these two cells come first in the sum.
    return torch.cat([body, lerp(corners[2], cols[0], corners[3], cols[1])])


def _fused(value: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    return torch.addcmul(rest.double(), value.double(), weight.double()).float()
