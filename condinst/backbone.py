"""ResNet-18/34/50/101 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst.config import BackboneConfig

_VECTOR = 16
"""Float32 channels that the widest vector registers hold."""
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics and affine parameters never change."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


def make_norm(kind: str, channels: int) -> nn.Module:
    """`frozen_batch`, `batch` or `group` normalisation of (N, channels, H, W)."""
    if kind == "frozen_batch":
        return FrozenBatchNorm2d(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(32, max(1, channels // 4)), channels)


class ConvNorm(nn.Module):
    """Convolution, then normalisation; the two become one convolution in `fold`."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, norm: str = "batch") -> None:
        super().__init__()
        # Narrow ones take their locations first: oneDNN's gradient of the weights of a strided 1x1
        # convolution of fewer channels than a vector holds writes beyond its memory (oneDNN issue 6035).
        self._every = stride if kernel == 1 and inp < _VECTOR else 1
        self.conv = nn.Conv2d(inp, out, kernel, stride // self._every, padding=kernel // 2, bias=False)
        self.norm = make_norm(norm, out)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, out, H', W')."""
        if self._every > 1:
            x = x[..., :: self._every, :: self._every]
        out: Tensor = self.norm(self.conv(x))
        return out

    def fold(self) -> None:
        """Put a batch norm's scale and shift into the convolution; evaluation only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = torch.nn.utils.fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inp: int, width: int, stride: int, config: BackboneConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inp, width, 3, stride, config.norm)
        self.conv2 = ConvNorm(width, width, 3, 1, config.norm)
        self.shortcut = ConvNorm(inp, width, 1, stride, config.norm) if stride > 1 or inp != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, width, H / stride, W / stride)."""
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        return _joined(out, x if self.shortcut is None else self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the stride is where the layout puts it."""

    def __init__(self, inp: int, width: int, stride: int, config: BackboneConfig) -> None:
        super().__init__()
        out = width * config.expansion
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(inp, width, 1, first, config.norm)
        self.conv2 = ConvNorm(width, width, 3, second, config.norm)
        self.conv3 = ConvNorm(width, out, 1, 1, config.norm)
        self.shortcut = ConvNorm(inp, out, 1, stride, config.norm) if stride > 1 or inp != out else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inp, H, W) to (N, 4 * width, H / stride, W / stride)."""
        narrow = F.relu(self.conv2(F.relu(self.conv1(x), inplace=True)), inplace=True)
        return _joined(self.conv3(narrow), x if self.shortcut is None else self.shortcut(x))


def _joined(out: Tensor, shortcut: Tensor) -> Tensor:
    """The end of a block, in the memory of `out`."""
    return F.relu(out.add_(shortcut), inplace=True)


class ResNet(nn.Module):
    """Stem and four stages."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem_channels, 7, 2, config.norm)
        block = BasicBlock if config.depth < 50 else Bottleneck
        inp = config.stem_channels
        stages = []
        for stage, (blocks, out) in enumerate(zip(_BLOCKS[config.depth], config.out_channels, strict=True)):
            width = config.width * 2**stage
            first = block(inp, width, 1 if stage == 0 else 2, config)
            stages.append(nn.Sequential(first, *(block(out, width, 1, config) for _ in range(blocks - 1))))
            inp = out
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to C3, C4, C5 at strides 8, 16, 32."""
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1], maps[2], maps[3]

    def freeze(self, stages: int) -> None:
        """Stop the gradient in the first `stages` parts: 1 is the stem, 2 adds res2, up to 5."""
        for part in [self.stem, *self.stages][:stages]:
            part.requires_grad_(False)
