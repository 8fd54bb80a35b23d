"""The dense part of a model, from images to maps, for `torch.compile` and `torch.export`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condinst.config import SIZE_DIVISOR
from condinst.model import CondInst


class DensePart(nn.Module):
    """Everything before detection: convolutions alone, no choice that depends on the data."""

    def __init__(self, model: CondInst) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        """(N, 3, H, W) normalised images to maps; H and W multiples of 32.

        Each list holds P3 to P7 but for the last: `logits` (N, classes, h, w), `distances` (N, 4, h, w) in
        strides, `quality` (N, 1, h, w) logits, `parameters` (N, numbers of an instance's mask network, h, w),
        and `mask_features`, one map (N, features, H / 8, W / 8).
        """
        dense = self.model.dense(x)
        return {
            "logits": dense.head.logits,
            "distances": dense.head.distances,
            "quality": dense.head.quality,
            "parameters": [self.model.head.controller(tower).float() for tower in dense.head.tower],
            "mask_features": [dense.mask_features],
        }


def export_dense(model: CondInst, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The dense part as a program for inputs of one (height, width) and any number of images from 1 on.

    ONNX and AOTInductor start from such a program. Raises ValueError for a size that is no multiple of 32.
    """
    if any(edge <= 0 or edge % SIZE_DIVISOR for edge in size):
        raise ValueError(f"the size must be multiples of {SIZE_DIVISOR}, not {size}")
    part = DensePart(model).eval()
    # Two images: an example of one would fix the number at one.
    example = torch.zeros(2, 3, *size, device=model.device, dtype=model.head.logits.weight.dtype)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(part, (example,), dynamic_shapes={"x": {0: batch}})
