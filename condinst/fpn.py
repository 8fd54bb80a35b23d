"""Feature pyramid network (Lin et al., CVPR 2017) with the two extra levels of RetinaNet and FCOS."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """C3-C5 to P3-P7; P6 from P5, P7 from ReLU(P6)."""

    def __init__(self, in_channels: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """C3-C5 of one padded size to [P3, P4, P5, P6, P7], each (N, channels, h, w)."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for level in (1, 0):
            merged[level] = merged[level] + F.interpolate(merged[level + 1], scale_factor=2.0, mode="nearest")
        levels: list[Tensor] = [output(x) for output, x in zip(self.output, merged, strict=True)]
        levels.append(self.p6(levels[2]))
        levels.append(self.p7(F.relu(levels[3])))
        return levels
