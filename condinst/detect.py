"""From head outputs to detections: candidates a level, class-aware NMS, the best of each image.

All images of a batch go through together, so that a GPU is waited for a few times a batch, not an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condinst.config import STRIDES, DetectConfig
from condinst.head import HeadOutput, locations
from condinst.transfer import constant, table

_NMS_BLOCK = 512


@dataclass
class Detections:
    """n detections of a batch, image by image, each by falling score; ties by (level, location, class)."""

    image: Tensor
    """(n,) int64 image of the batch."""
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
    output: HeadOutput, sizes: Sequence[tuple[int, int]], config: DetectConfig, names: Sequence[str] = ()
) -> Detections:
    """Detections of a batch; `sizes` are its images' (height, width) before padding.

    `names` are the model's classes, which settings by class need: ValueError for one that is not among them.
    """
    own = config.thresholds(names)
    threshold = config.score_threshold if own is None else constant(own, output.logits[0].device)
    limits = edges(output.logits[0], sizes)
    levels = [_level_candidates(output, level, limits, config, threshold) for level in range(len(STRIDES))]
    merged = Detections(
        **{name: torch.cat([vars(part)[name] for part in levels]) for name in vars(levels[0])}
    )
    merged = merged.select(_by_image(merged.image, merged.scores))
    return merged.select(
        nms(merged.boxes, merged.classes, config.nms_iou, config.max_instances, merged.image)
    )


def _level_candidates(
    output: HeadOutput, level: int, limits: Tensor, config: DetectConfig, threshold: float | Tensor
) -> Detections:
    """`limits`: (N, 4) each image's right and bottom edge, twice."""
    logits = output.logits[level]
    images, num_classes, h, w = logits.shape
    by_class = logits.sigmoid().permute(0, 2, 3, 1).reshape(images, h * w, num_classes)
    product = by_class * output.quality[level].sigmoid().reshape(images, h * w, 1)
    measure = product if config.threshold_on == "product" else by_class
    scores = product.sqrt() if config.score == "sqrt_product" else product
    chosen = ((measure > config.candidate_threshold) & (scores > threshold)).flatten().nonzero().squeeze(1)
    if len(chosen) > config.pre_nms_top_k:
        rank = product if config.rank_on == "product" else by_class
        image = chosen // (h * w * num_classes)
        chosen = chosen[top(image, images, rank.flatten()[chosen], config.pre_nms_top_k)]
    place = chosen // num_classes
    image, index = place // (h * w), place % (h * w)
    positions = locations(h, w, STRIDES[level], logits.device)[index]
    distances = output.distances[level].permute(0, 2, 3, 1).reshape(-1, 4)[place] * STRIDES[level]
    boxes = torch.cat((positions - distances[:, :2], positions + distances[:, 2:]), dim=1)
    return Detections(
        image=image,
        boxes=clip_boxes(boxes, limits[image]) if config.clip_before_nms else boxes,
        scores=scores.flatten()[chosen],
        classes=chosen % num_classes,
        level=torch.full_like(index, level),
        index=index,
        positions=positions,
    )


def top(image: Tensor, images: int, rank: Tensor, count: int) -> Tensor:
    """(n,) bool: which candidates are among the `count` of their image that rank highest.

    `image`: (n,) int64, sorted; `rank`: (n,), not negative. Of equal ones at the end the first are taken.
    """
    held = per_image(image, images)
    longest = int(held.max())
    if longest <= count:
        return torch.ones_like(image, dtype=torch.bool)
    place: tuple[Tensor, ...] | None = None
    row = rank[None]
    if images > 1:
        place = image, torch.arange(len(image), device=image.device) - (held.cumsum(0) - held)[image]
        row = rank.new_full((images, longest), -1)
        row[place] = rank
    last = row.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, equal = row > last, row == last
    keep = above | equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True))
    return keep[0] if place is None else keep[place]


def per_image(image: Tensor, images: int) -> Tensor:
    """(images,) int64 how many of (n,) sorted images are each; a GPU is not waited for."""
    return torch.searchsorted(image, torch.arange(images + 1, device=image.device)).diff()


def _by_image(image: Tensor, rank: Tensor) -> Tensor:
    """(n,) int64 the order by image, within it by falling rank; equal ones stay as they are."""
    order = torch.sort(rank, descending=True, stable=True).indices
    return order[torch.sort(image[order], stable=True).indices]


def _places(image: Tensor) -> Tensor:
    """(n,) int64 how many of the same image come before each, where `image` is sorted."""
    return torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)


def edges(like: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(N, 4) the furthest that boxes in images of (height, width) reach; type and device as `like`."""
    return table([[width, height, width, height] for height, width in sizes], like.device).to(like.dtype)


def clip_boxes(boxes: Tensor, limits: Tensor) -> Tensor:
    """(n, 4) boxes with their corners moved into their images, whose `edges` are `limits`, (n, 4)."""
    return torch.minimum(boxes.clamp(min=0), limits)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., n, m) intersection over union of (..., n, 4) and (..., m, 4) boxes; 0 where both are empty."""
    one, other = a[..., :, None, :], b[..., None, :, :]
    corner = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    overlap = corner.clamp(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (one, other))
    union = area_a + area_b - overlap
    return torch.where(union > 0, overlap / union, torch.zeros_like(union))


def nms(boxes: Tensor, classes: Tensor, iou: float, limit: int, image: Tensor | None = None) -> Tensor:
    """Greedy class-aware non-maximum suppression of n boxes, already sorted by falling score.

    A box goes if a kept better one of its class overlaps it by more than `iou`. Returns the (k,) int64
    indices of the first `limit` kept ones. With `image`, (n,) int64 and sorted, boxes of different images
    have nothing to do with each other, and the limit is each one's.
    """
    if image is None:
        image = torch.zeros_like(classes)
    if not len(boxes):
        return image
    place = _places(image)
    images, longest = (int(x) + 1 for x in torch.stack((image[-1], place.max())).tolist())
    row = torch.full((images, longest), -1, dtype=torch.int64, device=boxes.device)
    row[image, place] = torch.arange(len(boxes), device=boxes.device)
    kept = _Kept(boxes[row.clamp(min=0)], classes[row.clamp(min=0)], iou)
    for start in range(0, longest, _NMS_BLOCK):
        if start and not kept.wanting(limit, row[:, start] >= 0):
            break
        kept.look_at(row[:, start : start + _NMS_BLOCK] >= 0, start)
    flags = kept.flags & (kept.flags.cumsum(1) <= limit)
    return row[flags]


class _Kept:
    """Which of (N, M) boxes, each row's by falling score, are kept; found block by block of columns."""

    def __init__(self, boxes: Tensor, classes: Tensor, iou: float) -> None:
        self._boxes, self._classes, self._iou = boxes, classes, iou
        self.flags = torch.zeros_like(classes, dtype=torch.bool)

    def wanting(self, limit: int, more: Tensor) -> bool:
        """Whether a row that has `more`, (N,) bool, boxes has not yet `limit` kept ones."""
        return bool(((self.flags.sum(1) < limit) & more).any())

    def look_at(self, there: Tensor, start: int) -> None:
        """Decide on the columns from `start` on; `there`, (N, B) bool, tells boxes from padding."""
        alive = there
        if start:
            kept, sure = _front(self.flags[:, :start])
            block = torch.arange(start, start + there.shape[1], device=there.device).expand(len(there), -1)
            alive = there & ~(self._worse(block, kept) & sure[:, None, :]).any(2)
        block, alive = _front(alive)
        keep = _suppress(self._worse(block + start, block + start).tril(-1), alive)
        self.flags.scatter_(1, block + start, keep)

    def _worse(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, len(a), len(b)) bool: the same class and too much overlap, of the boxes at columns a and b."""
        one, other = (self._boxes.gather(1, at[:, :, None].expand(-1, -1, 4)) for at in (a, b))
        same = self._classes.gather(1, a)[:, :, None] == self._classes.gather(1, b)[:, None, :]
        return (box_iou(one, other) > self._iou) & same


def _front(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of (N, M) flags, those that are set first in each row, as many as the fullest row has."""
    most = int(flags.sum(1).max())
    columns = flags.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    return columns, flags.gather(1, columns)


def _suppress(worse: Tensor, alive: Tensor) -> Tensor:
    """(N, n) bool of the kept, where worse[:, i, j] says that a kept j < i removes i.

    Repeating `keep = no kept better one overlaps me` settles the first k after k rounds, and in practice
    all of them after a few.
    """
    keep = alive
    while True:
        after = alive & ~(worse & keep[:, None, :]).any(2)
        if torch.equal(after, keep):
            return keep
        keep = after
