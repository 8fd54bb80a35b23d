"""The arithmetic of the reference's two bilinear resizes, reproduced to the last bit.

The full-frame procedure runs `F.interpolate` twice. PyTorch's CPU kernels fuse multiplications with additions in an
order of their own, and use another order for small outputs. A pixel whose value lies within one rounding of the
threshold depends on it, so the same order is followed here, the fused operation standing as a float64 one: a product
of two float32 is exact in float64.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRIDE = 4
"""Pixels of the padded network input for one cell of the mask logits."""


@dataclass(frozen=True)
class Axis:
    """How one axis of the resized image maps to the output's.

    `low` (target,) is the source index left of each output pixel, `near` and `far` (target,) the float32 weights of
    that source pixel and the next, `first` (source + 1,) the first output pixel whose `low` is at least the index.
    """

    source: int
    target: int
    near: Tensor
    far: Tensor
    first: Tensor

    @property
    def identity(self) -> bool:
        return self.source == self.target


def resize_axis(source: int, target: int, device: torch.device) -> Axis:
    """Source indices and weights of `F.interpolate(mode="bilinear", align_corners=False)` along one axis."""
    if source == target:
        low = np.arange(target, dtype=np.int64)
        far = np.zeros(target, dtype=np.float32)
    else:
        scale = np.float32(source) / np.float32(target)
        centre = np.arange(target, dtype=np.float32) + np.float32(0.5)
        # One fused multiply-subtract: exact in float64 up to the final rounding to float32.
        position = (centre.astype(np.float64) * np.float64(scale) - 0.5).astype(np.float32)
        position = np.maximum(position, np.float32(0))
        low = np.minimum(position.astype(np.int64), source - 1)
        far = np.clip(position - low.astype(np.float32), 0, 1).astype(np.float32)
    first = np.searchsorted(low, np.arange(source + 1), side="left")
    near = np.float32(1) - far
    return Axis(source, target, *(torch.from_numpy(part).to(device) for part in (near, far, first)))


def joint_kernel(height: int, width: int) -> bool:
    """Whether PyTorch resizes to this output size by its kernel for small outputs, which multiplies the weights of
    the two axes first; else it works along one axis, then the other."""
    return height + width <= 128


def _fused(value: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    return torch.addcmul(rest.double(), value.double(), weight.double()).float()


def lerp(near: Tensor, near_weight: Tensor, far: Tensor, far_weight: Tensor) -> Tensor:
    """`near * near_weight + far * far_weight` in float32, with the rounding of PyTorch's CPU kernels."""
    return _fused(near, near_weight, far * far_weight)


def bilinear(
    corners: tuple[Tensor, Tensor, Tensor, Tensor],
    rows: tuple[Tensor, Tensor],
    cols: tuple[Tensor, Tensor],
    joint: bool,
) -> Tensor:
    """Bilinear values between `corners` (top left, top right, bottom left, bottom right; broadcastable, float32).

    `rows` and `cols` are the weights (near, far) along each axis; `joint` is `joint_kernel` of the whole output.
    """
    top_left, top_right, bottom_left, bottom_right = corners
    if not joint:
        top = lerp(top_left, cols[0], top_right, cols[1])
        return lerp(top, rows[0], lerp(bottom_left, cols[0], bottom_right, cols[1]), rows[1])
    value = _fused(top_left, rows[0] * cols[0], top_right * (rows[0] * cols[1]))
    value = _fused(bottom_left, rows[1] * cols[0], value)
    return _fused(bottom_right, rows[1] * cols[1], value)


def quarter_grid(corners: tuple[Tensor, Tensor, Tensor, Tensor], joint: bool) -> Tensor:
    """The 5 x 5 stride-1 samples spanned by each square of four neighbouring cells, both ends included.

    Takes four (m,) tensors; returns (5, 5, m) float32, indexed by row, column, square. Samples on a side shared by
    two squares come out equal, bit for bit, from both.
    """
    device = corners[0].device
    far = torch.arange(STRIDE + 1, dtype=torch.float32, device=device) / STRIDE
    cols = ((1 - far).view(1, -1, 1), far.view(1, -1, 1))
    rows = ((1 - far[:-1]).view(-1, 1, 1), far[:-1].view(-1, 1, 1))
    body = bilinear(corners, rows, cols, joint)
    # The last row is the first of the square below, where its two cells come first in the sum.
    last = lerp(corners[2], cols[0], corners[3], cols[1])
    return torch.cat([body, last])
