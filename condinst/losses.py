"""The losses as functions of tensors; sums or values an element, normalised by `criterion`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al., ICCV 2017, eq. 5); `target` is 0 or 1, of one shape."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of the sigmoid cross-entropy, a term a class; `target` is 0 or 1, of one shape."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def box_overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) IoU and GIoU (Rezatofighi et al., CVPR 2019) of boxes given as (n, 4) l, t, r, b about one point.

    In FCOS's form: the IoU is (intersection + 1) / (union + 1).
    """
    smaller, larger = torch.minimum(a, b), torch.maximum(a, b)
    intersection, enclosing = _area(smaller), _area(larger)
    union = _area(a) + _area(b) - intersection
    iou = (intersection + 1) / (union + 1)
    return iou, iou - (enclosing - union) / enclosing


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(1)
    return (left + right) * (top + bottom)


def smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """(n,) smooth L1 (Girshick, ICCV 2015) of (n, 4) distances, the mean of the four."""
    return F.smooth_l1_loss(predicted, target, reduction="none").mean(1)


def dice(probability: Tensor, target: Tensor, epsilon: float = 1e-5) -> Tensor:
    """(n,) dice loss (Milletari et al., 3DV 2016) of (n, ...) probabilities and 0..1 targets."""
    x, y = probability.flatten(1), target.flatten(1).to(probability.dtype)
    return 1 - 2 * (x * y).sum(1) / (x.square().sum(1) + y.square().sum(1) + epsilon)


def mask_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(n,) mean binary cross-entropy of (n, ...) mask logits."""
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return loss.flatten(1).mean(1)
