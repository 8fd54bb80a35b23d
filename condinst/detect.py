"""From head outputs to detections: candidates a level, class-aware NMS, the best of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condinst.config import STRIDES, DetectConfig
from condinst.head import HeadOutput, locations

_NMS_BLOCK = 512


@dataclass
class Detections:
    """n detections of one image, by falling score; ties by (level, location, class)."""

    boxes: Tensor
    """(n, 4) float32 x1, y1, x2, y2 in network input pixels, not clipped unless the config says so."""
    scores: Tensor
    """(n,) float32."""
    classes: Tensor
    """(n,) int64."""
    level: Tensor
    """(n,) int64, 0 is P3."""
    index: Tensor
    """(n,) int64 location in its level, row by row."""
    positions: Tensor
    """(n, 2) float32 x, y of the location in network input pixels."""

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, keep: Tensor | slice) -> Detections:
        """Those that an index tensor, a boolean tensor or a slice chooses, in its order."""
        return Detections(**{name: value[keep] for name, value in vars(self).items()})


def detect(
    output: HeadOutput,
    image: int,
    size: tuple[int, int],
    config: DetectConfig,
    names: Sequence[str] = (),
) -> Detections:
    """Detections of one image of a batch; `size` is its (height, width) before padding.

    `names` are the model's classes, which settings by class need: ValueError for one that is not among them.
    """
    own = config.thresholds(names)
    threshold = config.score_threshold if own is None else output.logits[0].new_tensor(own)
    levels = [
        _level_candidates(output, image, level, size, config, threshold) for level in range(len(STRIDES))
    ]
    merged = Detections(
        **{name: torch.cat([vars(part)[name] for part in levels]) for name in vars(levels[0])}
    )
    merged = merged.select(torch.sort(merged.scores, descending=True, stable=True).indices)
    return merged.select(nms(merged.boxes, merged.classes, config.nms_iou, config.max_instances))


def _level_candidates(
    output: HeadOutput,
    image: int,
    level: int,
    size: tuple[int, int],
    config: DetectConfig,
    threshold: float | Tensor,
) -> Detections:
    logits = output.logits[level][image]
    num_classes, h, w = logits.shape
    by_class = logits.sigmoid().permute(1, 2, 0).reshape(h * w, num_classes)
    product = by_class * output.quality[level][image].sigmoid().reshape(h * w, 1)
    measure = product if config.threshold_on == "product" else by_class
    scores = product.sqrt() if config.score == "sqrt_product" else product
    chosen = ((measure > config.candidate_threshold) & (scores > threshold)).flatten().nonzero().squeeze(1)
    if len(chosen) > config.pre_nms_top_k:
        rank = product if config.rank_on == "product" else by_class
        order = torch.sort(rank.flatten()[chosen], descending=True, stable=True).indices
        chosen = chosen[order[: config.pre_nms_top_k]].sort().values
    index = chosen // num_classes
    positions = locations(h, w, STRIDES[level], logits.device)[index]
    distances = output.distances[level][image].flatten(1).T[index] * STRIDES[level]
    boxes = torch.cat((positions - distances[:, :2], positions + distances[:, 2:]), dim=1)
    return Detections(
        boxes=clip_boxes(boxes, size) if config.clip_before_nms else boxes,
        scores=scores.flatten()[chosen],
        classes=chosen % num_classes,
        level=torch.full_like(index, level),
        index=index,
        positions=positions,
    )


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 4) boxes with their corners moved into an image of (height, width)."""
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes; 0 where both are empty."""
    corner = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    overlap = corner.clamp(min=0).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(1) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - overlap
    return torch.where(union > 0, overlap / union, torch.zeros_like(union))


def nms(boxes: Tensor, classes: Tensor, iou: float, limit: int) -> Tensor:
    """Greedy class-aware non-maximum suppression of n boxes already sorted by falling score.

    A box goes if a kept better one of its class overlaps it by more than `iou`. Returns the (k,) int64
    indices of the first `limit` kept ones; later blocks are not looked at once there are enough.
    """
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, len(boxes), _NMS_BLOCK):
        if len(kept) >= limit:
            break
        block = torch.arange(start, min(start + _NMS_BLOCK, len(boxes)), device=boxes.device)
        block = block[~_overlaps(boxes, classes, block, kept, iou).any(1)]
        kept = torch.cat((kept, block[_suppress(_overlaps(boxes, classes, block, block, iou).tril(-1))]))
    return kept[:limit]


def _overlaps(boxes: Tensor, classes: Tensor, a: Tensor, b: Tensor, iou: float) -> Tensor:
    """(len(a), len(b)) bool: the same class and too much overlap."""
    return (box_iou(boxes[a], boxes[b]) > iou) & (classes[a][:, None] == classes[b][None, :])


def _suppress(worse: Tensor) -> Tensor:
    """(n,) bool of the kept, where worse[i, j] says that a kept j < i removes i.

    Repeating `keep = no kept better one overlaps me` settles the first k after k rounds, and in practice
    all of them after a few.
    """
    keep = torch.ones(len(worse), dtype=torch.bool, device=worse.device)
    while True:
        after = ~(worse & keep[None, :]).any(1)
        if torch.equal(after, keep):
            return keep
        keep = after
