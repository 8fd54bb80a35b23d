"""Group norm (Wu and He, ECCV 2018) with means and variances that are not those of the image at hand.

Group norm takes them over all locations of an image. Where the image is a window of a larger one, they change
with what else is in the window, and with them what the head says of a thing. Taken once for the whole, they
are the same in every window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def moments(images: Sequence[Tensor], where: Sequence[Tensor], groups: int) -> Tensor:
    """(2, groups) float32: mean and variance of groups of channels over all images, (1, channels, h, w) each.

    `where`: of each image the (h, w) locations that count; all of them count where none would.
    """
    if not any(bool(mask.any()) for mask in where):
        where = [torch.ones_like(mask) for mask in where]
    values = [x[0].float().flatten(1)[:, mask.flatten()] for x, mask in zip(images, where, strict=True)]
    each = torch.cat(values, dim=1).double().reshape(groups, -1)
    return torch.stack([each.mean(1), each.var(1, correction=0)]).float()


def normed(x: Tensor, norm: nn.GroupNorm, given: Tensor) -> Tensor:
    """Normalise (N, channels, h, w) with (N, 2, groups) means and variances, then as the norm itself."""
    mean, variance = given[:, 0], given[:, 1]
    size = x.shape[1] // norm.num_groups
    scale = norm.weight.float() * (variance + norm.eps).rsqrt().repeat_interleave(size, dim=1)
    shift = norm.bias.float() - mean.repeat_interleave(size, dim=1) * scale
    return torch.addcmul(shift[:, :, None, None], x.float(), scale[:, :, None, None]).to(x.dtype)
