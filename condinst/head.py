"""The FCOS head (Tian et al., ICCV 2019): instance centres, their boxes, and the controller's input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst.config import STRIDES, HeadConfig
from condinst.norms import moments, normed


@dataclass
class HeadOutput:
    """What the head says of every location; each list holds P3 to P7."""

    logits: list[Tensor]
    """(N, classes, h, w) class logits."""
    distances: list[Tensor]
    """(N, 4, h, w) left, top, right, bottom, >= 0, in units of the level's stride."""
    quality: list[Tensor]
    """(N, 1, h, w) centre-ness (or IoU) logits."""
    tower: list[Tensor]
    """(N, channels, h, w) box tower, the controller's input."""


def locations(height: int, width: int, stride: int, device: torch.device | str = "cpu") -> Tensor:
    """(height * width, 2) float32 x, y of a level's locations in network input pixels, row by row."""
    x = torch.arange(width, device=device, dtype=torch.float32) * stride + stride // 2
    y = torch.arange(height, device=device, dtype=torch.float32) * stride + stride // 2
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), dim=1)


def _tower(channels: int, convs: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Head(nn.Module):
    """Two towers shared by the five levels, and the predictions on them."""

    def __init__(self, config: HeadConfig, channels: int, classes: int, instance_parameters: int) -> None:
        super().__init__()
        self.class_tower = _tower(channels, config.num_convs, config.groups)
        self.box_tower = _tower(channels, config.num_convs, config.groups)
        self.logits = nn.Conv2d(channels, classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1)
        self.controller = nn.Conv2d(channels, instance_parameters, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.logits.bias is not None:
            nn.init.constant_(self.logits.bias, -math.log(99))

    def forward(self, features: list[Tensor], norms: Tensor | None = None) -> HeadOutput:
        """P3-P7 to the predictions at every location, in float32 but for the tower.

        `norms`: (N, levels, 2 towers, convs, 2, groups) float32, means and variances in place of the images'
        own, as `statistics` finds them.
        """
        out = HeadOutput([], [], [], [])
        for level, x in enumerate(features):
            tower = _through(self.box_tower, x, None if norms is None else norms[:, level, 1])
            classes = _through(self.class_tower, x, None if norms is None else norms[:, level, 0])
            out.logits.append(self.logits(classes).float())
            out.distances.append(F.relu(self.distances(tower).float() * self.scales[level]))
            out.quality.append(self.quality(tower).float())
            out.tower.append(tower)
        return out

    def statistics(self, pyramids: Sequence[list[Tensor]], where: Sequence[list[Tensor]]) -> Tensor:
        """Means and variances that the towers' norms find in several images taken as one.

        `pyramids`: of each image P3 to P7, (1, channels, h, w). `where`: of each the locations that count, a
        (h, w) bool a level. Returns (levels, 2 towers, convs, 2, groups) float32. Each layer is given what
        the one before it makes with the statistics of all, not with an image's own.
        """
        towers = (self.class_tower, self.box_tower)
        levels = range(len(pyramids[0]))
        return torch.stack(
            [
                torch.stack(
                    [
                        _statistics(tower, [p[level] for p in pyramids], [w[level] for w in where])
                        for tower in towers
                    ]
                )
                for level in levels
            ]
        )

    def generate(self, tower: list[Tensor], image: Tensor, level: Tensor, index: Tensor) -> Tensor:
        """The controller at n chosen locations only: its 3x3 convolution on n gathered patches.

        `image`, `level`, `index`: (n,) int64; `index` counts a level's locations row by row.
        Returns (n, instance parameters) float32, the same numbers as the dense convolution.
        """
        weight = self.controller.weight.flatten(1).float()
        patches = weight.new_empty(len(index), weight.shape[1])
        for number, x in enumerate(tower):
            chosen = (level == number).nonzero().squeeze(1)
            own = _patches(x, image[chosen], index[chosen]).float()
            patches = patches.index_copy(0, chosen, own)
        bias = None if self.controller.bias is None else self.controller.bias.float()
        with torch.autocast(weight.device.type, enabled=False):
            return F.linear(patches, weight, bias)


def _layers(tower: nn.Sequential) -> Iterator[tuple[nn.Conv2d, nn.GroupNorm]]:
    modules = list(tower)
    for conv, norm in zip(modules[0::3], modules[1::3], strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        yield conv, norm


def _through(tower: nn.Sequential, x: Tensor, given: Tensor | None) -> Tensor:
    """What a tower makes of (N, channels, h, w); `given`: (N, convs, 2, groups) for its norms."""
    if given is None:
        out: Tensor = tower(x)
        return out
    for number, (conv, norm) in enumerate(_layers(tower)):
        x = F.relu(normed(conv(x), norm, given[:, number]), inplace=True)
    return x


def _statistics(tower: nn.Sequential, images: list[Tensor], where: Sequence[Tensor]) -> Tensor:
    """(convs, 2, groups) of a tower's norms over all images, each (1, channels, h, w)."""
    found = []
    for conv, norm in _layers(tower):
        images = [conv(x) for x in images]
        found.append(moments(images, where, norm.num_groups))
        images = [F.relu(normed(x, norm, found[-1][None])) for x in images]
    return torch.stack(found)


def _patches(x: Tensor, image: Tensor, index: Tensor) -> Tensor:
    """(n, channels * 9) zero-padded 3x3 neighbourhoods of `index` in (N, channels, h, w)."""
    width = x.shape[3]
    padded = F.pad(x, (1, 1, 1, 1))
    offsets = torch.arange(3, device=x.device)
    rows = (index // width)[:, None, None] + offsets[None, :, None]
    columns = (index % width)[:, None, None] + offsets[None, None, :]
    return padded.permute(0, 2, 3, 1)[image[:, None, None], rows, columns].permute(0, 3, 1, 2).flatten(1)
