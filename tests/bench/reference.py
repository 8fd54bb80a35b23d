"""The full-frame reference procedure for masks: the oracle of the tests and the baseline of the benchmark."""

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch import Tensor


def aligned_bilinear(values: Tensor, factor: int) -> Tensor:
    """(n, c, h, w) to (n, c, factor * h, factor * w)."""
    height, width = values.shape[-2:]
    values = F.pad(values, (0, 1, 0, 1), mode="replicate")
    values = F.interpolate(
        values, size=(factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True
    )
    values = F.pad(values, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return values[:, :, : factor * height, : factor * width]


def full_frame_masks(
    logits: Tensor, resized: tuple[int, int], size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Stride-4 logits (n, h4, w4) to masks (n, height, width) bool of the output `size`."""
    if len(logits) == 0:
        return torch.zeros((0, *size), dtype=torch.bool)
    values = aligned_bilinear(logits.sigmoid().unsqueeze(1), 4)
    values = values[:, :, : resized[0], : resized[1]]
    values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
    return values[:, 0] > threshold


def encode_full_frame(masks: Tensor) -> list[bytes]:
    """COCO compressed RLE of full-frame masks, by pycocotools."""
    stack = np.asfortranarray(masks.numpy().astype(np.uint8).transpose(1, 2, 0))
    return [item["counts"] for item in coco.encode(stack)]
