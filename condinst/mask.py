"""The mask branch and the conditional mask head (Tian et al., "Conditional Convolutions for Instance
Segmentation", ECCV 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst.backbone import ConvNorm
from condinst.config import MaskConfig
from condinst.upsample import weights_first

MASK_STRIDE = 4
"""Network input pixels a mask logit."""
_FEATURE_STRIDE = 8
_CHUNK_ELEMENTS, _GPU_CHUNK_ELEMENTS = 1 << 19, 1 << 25
"""Of what an instance's layers hold, together: on a processor what its caches keep."""


def aligned_bilinear(x: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) enlarged `factor` times: input (i, j) lands on output (i, j) * factor + factor // 2."""
    if factor == 1:
        return x
    h, w = x.shape[2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(factor * h + 1, factor * w + 1), mode="bilinear", align_corners=True)
    half = factor // 2
    x = F.pad(x, (half, 0, half, 0), mode="replicate")
    return x[:, :, : factor * h, : factor * w]


def doubled(x: Tensor) -> Tensor:
    """(n, h, w) to (n, 2h, 2w): `aligned_bilinear` by 2, the same to the last bit, but not for training.

    Every new value is the mean of two or four, so each axis is one sum, and no pass pads or cuts.
    """
    n, h, w = x.shape
    if weights_first(2 * h + 1, 2 * w + 1):
        return aligned_bilinear(x[:, None], 2)[:, 0] if n else x.new_empty(0, 2 * h, 2 * w)
    wide = x.new_empty(n, h, 2 * w)
    wide[:, :, 0] = x[:, :, 0]
    wide[:, :, 1::2] = x
    torch.add(x[:, :, :-1], x[:, :, 1:], out=wide[:, :, 2::2]).mul_(0.5)
    out = x.new_empty(n, 2 * h, 2 * w)
    out[:, 0] = wide[:, 0]
    out[:, 1::2] = wide
    torch.add(wide[:, :-1], wide[:, 1:], out=out[:, 2::2]).mul_(0.5)
    return out


class MaskBranch(nn.Module):
    """P3-P5 to the mask features that every instance of an image shares."""

    def __init__(self, config: MaskConfig, channels: int, classes: int) -> None:
        super().__init__()
        inner = config.branch_channels
        self.refine = nn.ModuleList(ConvNorm(channels, inner, 3) for _ in range(3))
        self.tower = nn.ModuleList(ConvNorm(inner, inner, 3) for _ in range(config.branch_convs))
        self.features = nn.Conv2d(inner, config.features, 1)
        self.semantic = None
        if config.semantic:
            self.semantic = nn.ModuleList([ConvNorm(channels, inner, 3), ConvNorm(inner, inner, 3)])
            self.semantic_logits = nn.Conv2d(inner, classes, 1)
            nn.init.normal_(self.semantic_logits.weight, std=0.01)
            if self.semantic_logits.bias is not None:
                nn.init.constant_(self.semantic_logits.bias, -math.log(99))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """[P3, P4, P5, ...] to (N, features, H / 8, W / 8) float32."""
        x = F.relu(self.refine[0](levels[0]), inplace=True)
        for number in (1, 2):
            coarse = F.relu(self.refine[number](levels[number]), inplace=True)
            x = x + aligned_bilinear(coarse, 2**number)
        for layer in self.tower:
            x = F.relu(layer(x), inplace=True)
        out: Tensor = self.features(x)
        return out.float()

    def semantic_map(self, p3: Tensor) -> Tensor:
        """(N, classes, H / 8, W / 8) float32 semantic logits; only with `MaskConfig.semantic`."""
        if self.semantic is None:
            raise RuntimeError("these weights have no semantic head: set mask.semantic in the config")
        x = p3
        for layer in self.semantic:
            x = F.relu(layer(x))
        out: Tensor = self.semantic_logits(x)
        return out.float()


def split_parameters(parameters: Tensor, config: MaskConfig) -> tuple[list[Tensor], list[Tensor]]:
    """(n, num_parameters) as the weights (n, out, in) and biases (n, out) of each layer.

    The controller's order is every layer's weights, then every layer's biases.
    """
    shapes = config.layer_shapes
    sizes = [out * inp for out, inp in shapes] + [out for out, _ in shapes]
    pieces = parameters.split(sizes, dim=1)
    weights = [p.reshape(-1, *shape) for p, shape in zip(pieces, shapes, strict=False)]
    return weights, list(pieces[len(shapes) :])


def conditional_masks(
    features: Tensor,
    counts: Sequence[int],
    parameters: Tensor,
    positions: Tensor,
    scales: Tensor,
    config: MaskConfig,
) -> Tensor:
    """Each instance's own network on its image's mask features.

    features (N, features, h, w) at stride 8; `counts`: how many of the n instances are each image's, one
    image's after another's; parameters (n, num_parameters); positions (n, 2) x, y of the instances' locations
    and scales (n,) their sizes of interest, network input pixels. Returns (n, 2h, 2w) float32 mask logits at
    stride 4. Instances go through in chunks of bounded memory, whatever images they are of.
    """
    h, w = features.shape[2:]
    most = _GPU_CHUNK_ELEMENTS if features.is_cuda else _CHUNK_ELEMENTS
    chunk = max(1, most // (config.head_channels * h * w))
    basis, starts = _basis(features), range(0, len(parameters), chunk)
    parts = [
        _conditional_chunk(basis, _spans(counts, start, start + chunk), p, xy, s, config)
        for start, p, xy, s in zip(
            starts, parameters.split(chunk), positions.split(chunk), scales.split(chunk), strict=False
        )
    ]
    if not parts:
        return features.new_zeros(0, 2 * h, 2 * w)
    logits = (torch.cat(parts) if len(parts) > 1 else parts[0]).view(-1, h, w)
    if logits.requires_grad:
        return aligned_bilinear(logits.unsqueeze(1), _FEATURE_STRIDE // MASK_STRIDE).squeeze(1)
    return doubled(logits)


def _spans(counts: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
    """Images of the instances from `start` on to `stop`, each with how many of these are its own."""
    spans, first = [], 0
    for image, count in enumerate(counts):
        own = min(first + count, stop) - max(first, start)
        if own > 0:
            spans.append((image, own))
        first += count
    return spans


def _basis(features: Tensor) -> Tensor:
    """(N, 2 + features, h * w): pixel x, pixel y, mask features; what every first layer is linear in."""
    n, _, h, w = features.shape
    half = _FEATURE_STRIDE // 2
    x = torch.arange(w, device=features.device, dtype=features.dtype) * _FEATURE_STRIDE + half
    y = torch.arange(h, device=features.device, dtype=features.dtype) * _FEATURE_STRIDE + half
    return torch.cat((x.expand(n, 1, h, w), y[:, None].expand(n, 1, h, w), features), dim=1).flatten(2)


def _conditional_chunk(
    basis: Tensor,
    spans: Sequence[tuple[int, int]],
    parameters: Tensor,
    positions: Tensor,
    scales: Tensor,
    config: MaskConfig,
) -> Tensor:
    """(n, h * w) logits before upsampling.

    The first layer sees (position - pixel) / scale, which is affine in the pixel: its weights on the pixel
    are -w / scale and w * position / scale joins the bias. So an image's instances share a matrix of inputs.
    """
    weights, biases = split_parameters(parameters, config)
    coordinate = weights[0][:, :, :2] / scales[:, None, None]
    first = torch.cat((-coordinate, weights[0][:, :, 2:]), dim=2)
    bias = biases[0] + (coordinate * positions[:, None, :]).sum(2)
    n, out, inp = first.shape
    own = [out * count for _, count in spans]
    layers = zip(spans, bias.reshape(-1, 1).split(own), first.reshape(-1, inp).split(own), strict=True)
    found = [torch.addmm(b, weight, basis[image]) for (image, _), b, weight in layers]
    x = (torch.cat(found) if len(found) > 1 else found[0]).view(n, out, -1)
    del found
    for weight, b in zip(weights[1:], biases[1:], strict=True):
        x = torch.baddbmm(b[:, :, None], weight, F.relu(x, inplace=True))
    return x.squeeze(1)
