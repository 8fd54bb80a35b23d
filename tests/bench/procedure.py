"""CondInst's inference as `CONDINST.md` writes it, step by step, for comparison: no folding, no shortcut.

float32, weights as they are stored, the controller run over every location, all instances as one grouped
convolution at every pixel, full-frame masks and pycocotools.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from condinst.config import STRIDES, ShortestEdge
from condinst.model import CondInst
from tests.bench.reference import aligned_bilinear, encode_full_frame, full_frame_masks

CANDIDATES = 1000
NMS_IOU = 0.6


@dataclass
class Found:
    """n instances of one image, by falling score."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    counts: list[bytes]
    """COCO compressed RLE of the full frame."""


@torch.inference_mode()
def reference(model: CondInst, image: np.ndarray, threshold: float, instances: int) -> Found:
    """Instances of a uint8 (height, width, 3) RGB image."""
    x, resized = network_input(model, image)
    pyramid = model.fpn(model.backbone(x))
    levels = [_level(model, level, p, threshold) for level, p in enumerate(pyramid)]
    boxes, scores, classes, parameters, positions, sizes = (
        torch.cat(part) for part in zip(*levels, strict=True)
    )
    kept = _nms(boxes, scores, classes)[:instances]
    logits = _mask_head(model, model.mask_branch(pyramid)[0], parameters[kept], positions[kept], sizes[kept])
    size = (image.shape[0], image.shape[1])
    masks = full_frame_masks(logits, resized, size)
    scale = torch.tensor([size[1] / resized[1], size[0] / resized[0]] * 2)
    limit = torch.tensor([size[1], size[0]] * 2)
    scaled = torch.minimum((boxes[kept] * scale).clamp(min=0), limit)
    return Found(scaled.numpy(), scores[kept].numpy(), classes[kept].numpy(), encode_full_frame(masks))


def network_input(model: CondInst, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    rule = model.config.input.resize
    assert isinstance(rule, ShortestEdge)
    height, width = image.shape[:2]
    scale = min(rule.size / min(height, width), rule.longest / max(height, width))
    resized = int(height * scale + 0.5), int(width * scale + 0.5)
    pixels = np.array(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))
    x = torch.from_numpy(pixels).float().permute(2, 0, 1).flip(0)
    x = (x - torch.tensor(model.config.input.mean)[:, None, None]) / torch.tensor(model.config.input.std)[
        :, None, None
    ]
    return F.pad(x, (0, -resized[1] % 32, 0, -resized[0] % 32))[None], resized


def _level(model: CondInst, level: int, x: Tensor, threshold: float) -> tuple[Tensor, ...]:
    head, stride = model.head, STRIDES[level]
    tower = head.box_tower(x)
    by_class = head.logits(head.class_tower(x)).sigmoid()[0]
    product = by_class * head.quality(tower).sigmoid()[0]
    distances = F.relu(head.distances(tower) * head.scales[level])[0] * stride
    parameters = head.controller(tower)[0]
    classes, h, w = product.shape
    flat = product.permute(1, 2, 0).reshape(-1)
    chosen = (flat > threshold).nonzero().squeeze(1)
    if len(chosen) > CANDIDATES:
        chosen = chosen[flat[chosen].topk(CANDIDATES).indices]
    at = chosen // classes
    positions = torch.stack((at % w, at // w), 1) * stride + stride // 2
    ltrb = distances.reshape(4, -1).T[at]
    boxes = torch.cat((positions - ltrb[:, :2], positions + ltrb[:, 2:]), 1)
    sizes = torch.full((len(at),), float(model.config.mask.sizes_of_interest[level]))
    return boxes, flat[chosen].sqrt(), chosen % classes, parameters.reshape(-1, h * w).T[at], positions, sizes


def _nms(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """Greedy, class by class; numpy, a kept box at a time."""
    order = scores.argsort(descending=True, stable=True)
    corners, kinds = boxes[order].numpy(), classes[order].numpy()
    area = (corners[:, 2:] - corners[:, :2]).prod(1)
    alive = np.ones(len(order), bool)
    for n in range(len(order)):
        if alive[n]:
            rest = slice(n + 1, None)
            overlap = np.minimum(corners[rest, 2:], corners[n, 2:]) - np.maximum(
                corners[rest, :2], corners[n, :2]
            )
            shared = overlap.clip(0).prod(1)
            union = area[rest] + area[n] - shared
            alive[rest] &= ~((shared > NMS_IOU * union) & (kinds[rest] == kinds[n]))
    return order[torch.from_numpy(alive)]


def _mask_head(
    model: CondInst, features: Tensor, parameters: Tensor, positions: Tensor, sizes: Tensor
) -> Tensor:
    """Stride-4 logits (n, h4, w4): one grouped convolution a layer over coordinates and features."""
    h, w = features.shape[1:]
    n = len(parameters)
    y, x = torch.meshgrid(torch.arange(h) * 8 + 4, torch.arange(w) * 8 + 4, indexing="ij")
    relative = (positions[:, :, None, None] - torch.stack((x, y))[None]) / sizes[:, None, None, None]
    out = torch.cat((relative, features[None].expand(n, -1, -1, -1)), 1).reshape(1, -1, h, w)
    shapes = model.config.mask.layer_shapes
    weights = parameters.split([o * i for o, i in shapes] + [o for o, _ in shapes], 1)
    for layer, (o, i) in enumerate(shapes):
        kernel = weights[layer].reshape(n * o, i, 1, 1)
        out = F.conv2d(out, kernel, weights[len(shapes) + layer].reshape(-1), groups=n)
        if layer < len(shapes) - 1:
            out = out.relu()
    return aligned_bilinear(out.reshape(n, 1, h, w), 2)[:, 0]
