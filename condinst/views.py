"""Endless training batches: random views of examples, each example once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from condinst.augment import AugmentConfig, Example, Random, random_view, to_box_target, to_target
from condinst.boxinst import colour_similarity
from condinst.config import ModelConfig
from condinst.criterion import LossConfig
from condinst.fit import Batch
from condinst.preprocess import Prepared, resized_size, to_batch


def training_batches(
    load: Callable[[int], Example],
    count: int,
    config: ModelConfig,
    loss: LossConfig,
    augment: AugmentConfig,
    images: int,
    random: Random,
) -> Iterator[Batch]:
    """Batches of `images` views of `load(0)` to `load(count - 1)`; `random` draws the order of each epoch."""
    order: list[int] = []
    while True:
        views = []
        for _ in range(images):
            order = order or random.permutation(count).tolist()
            views.append(view_of(load(order.pop()), config, augment, random))
        yield make_batch(views, config, loss)


def view_of(example: Example, config: ModelConfig, augment: AugmentConfig, random: Random) -> Example:
    """A random view at the scale that the model's resize rule gives the whole image."""
    height, width = example.image.shape[:2]
    scale = resized_size((height, width), config.input)[0] / height
    return random_view(example, random, augment, scale)


def make_batch(views: Sequence[Example], config: ModelConfig, loss: LossConfig) -> Batch:
    """A batch of views of one size; for BoxInst only their boxes are told, and their colours compared."""
    size = views[0].image.shape[0], views[0].image.shape[1]
    prepared = [Prepared(np.ascontiguousarray(v.image), size) for v in views]
    x = to_batch(prepared, config.input, torch.device("cpu"))
    if loss.mask != "boxinst":
        return Batch(x, [to_target(v) for v in views])
    valid = torch.ones(size, dtype=torch.bool)
    similarity = [
        colour_similarity(
            torch.from_numpy(p.pixels).permute(2, 0, 1), valid, loss.boxinst.kernel, loss.boxinst.dilation
        )
        for p in prepared
    ]
    return Batch(x, [to_box_target(v) for v in views], similarity)
