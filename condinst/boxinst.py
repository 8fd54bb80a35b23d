"""Masks from boxes alone (Tian et al., "BoxInst", CVPR 2021): projection and pairwise colour losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from condinst.losses import dice
from condinst.mask import MASK_STRIDE

# sRGB to CIE XYZ (IEC 61966-2-1), and the D65 white point.
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(3, h, w) uint8-valued RGB to CIE Lab, float32."""
    value = rgb.float() / 255
    linear = torch.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    xyz = torch.einsum("ij,jhw->ihw", linear.new_tensor(_XYZ), linear)
    xyz = xyz / linear.new_tensor(_WHITE)[:, None, None]
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def neighbours(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """(N, C, kernel^2 - 1, h, w): each pixel's neighbours, zero outside, without the pixel itself."""
    n, c, h, w = x.shape
    padding = (kernel + (dilation - 1) * (kernel - 1)) // 2
    unfolded = F.unfold(x, kernel, dilation, padding).view(n, c, kernel * kernel, h, w)
    middle = kernel * kernel // 2
    return torch.cat((unfolded[:, :, :middle], unfolded[:, :, middle + 1 :]), dim=2)


def colour_similarity(rgb: Tensor, valid: Tensor, kernel: int = 3, dilation: int = 2) -> Tensor:
    """(kernel^2 - 1, H / 4, W / 4) similarity of each stride-4 pixel to its neighbours.

    rgb (3, H, W) 0..255, padded; valid (H, W) bool, false on padding. exp(-|dLab| / 2) of the 4x4 average,
    times the neighbours' validity.
    """
    half = MASK_STRIDE // 2
    pooled = F.avg_pool2d(rgb[None].float(), MASK_STRIDE)[0].floor()
    lab = rgb_to_lab(pooled)[None]
    difference = (lab[:, :, None] - neighbours(lab, kernel, dilation)).norm(dim=1)
    weight = neighbours(valid[None, None, half::MASK_STRIDE, half::MASK_STRIDE].float(), kernel, dilation)
    return (torch.exp(-0.5 * difference) * weight.amax(1))[0]


def projection(probability: Tensor, boxes: Tensor) -> Tensor:
    """(n,) sums of the dice losses of (n, h, w) probabilities' maxima along y and along x."""
    return dice(probability.amax(1), boxes.amax(1)) + dice(probability.amax(2), boxes.amax(2))


def pairwise(logits: Tensor, kernel: int = 3, dilation: int = 2) -> Tensor:
    """(n, kernel^2 - 1, h, w) of -log P(a pixel and its neighbour agree) for (n, h, w) mask logits."""
    inside, outside = F.logsigmoid(logits[:, None]), F.logsigmoid(-logits[:, None])
    both_in = inside[:, :, None] + neighbours(inside, kernel, dilation)
    both_out = outside[:, :, None] + neighbours(outside, kernel, dilation)
    return -torch.logaddexp(both_in, both_out)[:, 0]
