"""What training compares with: an image's ground truth, and which location learns which instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condinst.config import STRIDES
from condinst.head import locations
from condinst.mask import MASK_STRIDE

SIZE_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
"""Largest distance (pixels, both ends inclusive) that a location of each level may regress."""
SEMANTIC_STRIDE = 8
_FAR = 1e8
Crop = tuple[int, int, NDArray[np.bool_]]
"""A mask: x and y of its top left pixel, and its pixels."""


@dataclass
class Target:
    """Ground truth of one image with g instances, in network input pixels."""

    boxes: Tensor
    """(g, 4) float32 x1, y1, x2, y2."""
    classes: Tensor
    """(g,) int64."""
    centers: Tensor
    """(g, 2) float32 x, y: the mask's centroid, or the box's centre where there is no mask."""
    masks: Tensor
    """(g, H / 4, W / 4) bool: the padded mask sampled at [2::4, 2::4]; with boxes only, the filled box."""
    semantic: Tensor | None = None
    """(H / 8, W / 8) int64: 0 is background, class + 1 otherwise, the smaller instance on top."""

    def to(self, device: torch.device) -> Target:
        """The same on a device."""
        semantic = None if self.semantic is None else self.semantic.to(device)
        boxes, classes, centers = self.boxes.to(device), self.classes.to(device), self.centers.to(device)
        return Target(boxes, classes, centers, self.masks.to(device), semantic)

    @staticmethod
    def from_crops(crops: Sequence[Crop], classes: Tensor, size: tuple[int, int]) -> Target:
        """Of masks as crops, as tight as can be, inside a padded network input of (height, width).

        No mask is laid out on the whole input: only what is learned from, a sixteenth of it.
        """
        masks = np.zeros((len(crops), size[0] // MASK_STRIDE, size[1] // MASK_STRIDE), bool)
        sampled = np.zeros((len(crops), size[0] // SEMANTIC_STRIDE, size[1] // SEMANTIC_STRIDE), bool)
        boxes, centers = np.zeros((len(crops), 4)), np.zeros((len(crops), 2))
        areas = np.zeros(len(crops), np.int64)
        for number, (x, y, mask) in enumerate(crops):
            _sample(masks[number], x, y, mask, MASK_STRIDE)
            _sample(sampled[number], x, y, mask, SEMANTIC_STRIDE)
            height, width = mask.shape
            columns, rows = mask.sum(0), mask.sum(1)
            areas[number] = area = max(1, int(columns.sum()))
            boxes[number] = x, y, x + width, y + height
            centers[number] = x + columns @ np.arange(width) / area, y + rows @ np.arange(height) / area
        semantic = np.zeros(sampled.shape[1:], np.int64)
        numbers = classes.tolist()
        for number in np.argsort(-areas, kind="stable").tolist():
            semantic[sampled[number]] = numbers[number] + 1
        return Target(
            torch.from_numpy(boxes).float(),
            classes,
            torch.from_numpy(centers).float(),
            torch.from_numpy(masks),
            torch.from_numpy(semantic),
        )

    @staticmethod
    def from_boxes(boxes: Tensor, classes: Tensor, size: tuple[int, int]) -> Target:
        """Of boxes alone, on a padded network input of (height, width)."""
        half = MASK_STRIDE // 2
        y = torch.arange(half, size[0], MASK_STRIDE, device=boxes.device)
        x = torch.arange(half, size[1], MASK_STRIDE, device=boxes.device)
        x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
        rows = (y >= y1.floor()) & (y < (y2 + 1).floor())
        columns = (x >= x1.floor()) & (x < (x2 + 1).floor())
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        return Target(boxes, classes, centers, rows[:, :, None] & columns[:, None, :])


def _sample(out: NDArray[np.bool_], x: int, y: int, mask: NDArray[np.bool_], stride: int) -> None:
    """Put a mask whose top left pixel is x, y into `out`, which has one pixel of `stride` by `stride`."""
    half = stride // 2
    column, row = max(0, -(-(x - half) // stride)), max(0, -(-(y - half) // stride))
    part = mask[row * stride + half - y :: stride, column * stride + half - x :: stride]
    out[row : row + part.shape[0], column : column + part.shape[1]] = part


@dataclass
class Assignment:
    """Which instance each location of a batch learns.

    Locations are level first, then image, then row by row: level l of N images is N * h * w entries.
    """

    labels: Tensor
    """(total,) int64 class, or -1 for background."""
    instance: Tensor
    """(total,) int64 index into the batch's instances (image by image); meaningless for background."""
    distances: Tensor
    """(total, 4) float32 left, top, right, bottom in units of the level's stride."""
    level: Tensor
    """(total,) int64."""
    image: Tensor
    """(total,) int64."""
    index: Tensor
    """(total,) int64 location within its level and image."""
    positions: Tensor
    """(total, 2) float32 x, y in network input pixels."""

    def select(self, keep: Tensor) -> Assignment:
        """The locations that an index or boolean tensor chooses."""
        return Assignment(**{name: value[keep] for name, value in vars(self).items()})


def assign(targets: list[Target], shapes: list[tuple[int, int]], radius: float = 1.5) -> Assignment:
    """Centre sampling of FCOS, on mask centroids (CondInst).

    `shapes` are the levels' (h, w). A location may take an instance if it lies strictly inside the window of
    `radius` strides around the instance's centre, clipped to the box, and its largest distance is in the
    level's range; of several it takes the one with the smallest box.
    """
    first = 0
    parts: list[list[Assignment]] = [[] for _ in shapes]
    for image, target in enumerate(targets):
        for level, (h, w) in enumerate(shapes):
            part = _assign_level(target, level, h, w, radius)
            part.image.fill_(image)
            part.instance += first
            parts[level].append(part)
        first += len(target.boxes)
    flat = [part for level in parts for part in level]
    return Assignment(**{name: torch.cat([vars(p)[name] for p in flat]) for name in vars(flat[0])})


def _assign_level(target: Target, level: int, h: int, w: int, radius: float) -> Assignment:
    boxes, stride = target.boxes, STRIDES[level]
    positions = locations(h, w, stride, boxes.device)
    count = len(positions)
    labels = torch.full((count,), -1, dtype=torch.int64, device=boxes.device)
    instance = torch.zeros_like(labels)
    distances = boxes.new_zeros(count, 4)
    if len(boxes):
        all_distances = _distances(positions, boxes)
        window = torch.cat(
            (
                torch.maximum(target.centers - stride * radius, boxes[:, :2]),
                torch.minimum(target.centers + stride * radius, boxes[:, 2:]),
            ),
            dim=1,
        )
        low, high = SIZE_RANGES[level]
        largest = all_distances.amax(2)
        allowed = (_distances(positions, window).amin(2) > 0) & (largest >= low) & (largest <= high)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(count, -1)
        smallest, instance = torch.where(allowed, area, torch.full_like(area, _FAR)).min(1)
        labels = torch.where(smallest < _FAR, target.classes[instance], labels)
        distances = all_distances[torch.arange(count, device=boxes.device), instance] / stride
    index = torch.arange(count, device=boxes.device)
    return Assignment(
        labels, instance, distances, torch.full_like(index, level), torch.zeros_like(index), index, positions
    )


def _distances(positions: Tensor, boxes: Tensor) -> Tensor:
    """(locations, boxes, 4) left, top, right, bottom distances."""
    xy = positions[:, None, :]
    return torch.cat((xy - boxes[None, :, :2], boxes[None, :, 2:] - xy), dim=2)


def centerness(distances: Tensor) -> Tensor:
    """(n,) centre-ness of (n, 4) l, t, r, b: sqrt of both axes' min / max multiplied (FCOS, eq. 3)."""
    horizontal, vertical = distances[:, [0, 2]], distances[:, [1, 3]]
    ratio = horizontal.amin(1) / horizontal.amax(1) * (vertical.amin(1) / vertical.amax(1))
    return ratio.clamp(min=0).sqrt()
