"""Training batches: random views of examples, each a function of the seed and its position alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import torch

from condinst.augment import (
    AugmentConfig,
    Example,
    Labelled,
    Random,
    random_paste,
    random_view,
    to_box_target,
    to_target,
)
from condinst.boxinst import colour_similarity
from condinst.config import ModelConfig
from condinst.criterion import LossConfig
from condinst.fit import Batch
from condinst.preprocess import Prepared, resized_size, to_batch
from condinst.sampling import Order, share


@dataclass(frozen=True)
class Views:
    """Views of examples in an order; view p is the same whoever makes it, and whenever."""

    load: Callable[[int], Example | Labelled | None]
    """An example by its number, or None where another has to take its place; called from threads."""
    order: Order
    config: ModelConfig
    loss: LossConfig
    augment: AugmentConfig

    def view(self, position: int, size: int) -> Example:
        """The view at a position, a square of `size` pixels.

        In the place of an example that cannot be had stands the next of the order that can; in the place of
        one that is pasted, the next by number. Raises LookupError where there is none.
        """
        random = self.order.random(position)
        example = self._first(map(self.order.item, count(position)))
        view = view_of(example, self.config, self.augment, random, size)
        if random.random() >= self.augment.copy_paste:
            return view
        images = sum(self.order.counts)
        number = int(random.integers(images))
        other = self._first(chain(range(number, images), range(number)))
        return random_paste(view, view_of(other, self.config, self.augment, random, size), random)

    def _first(self, numbers: Iterable[int]) -> Example | Labelled:
        """The first of some examples that can be had."""
        tried: set[int] = set()
        for number in numbers:
            if (example := self.load(number)) is not None:
                return example
            tried.add(number)
            if len(tried) == sum(self.order.counts):
                break
        raise LookupError("there is no example that can be had")

    def batches(
        self,
        images: int,
        *,
        first_step: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        threads: int = 1,
    ) -> Iterator[Batch]:
        """One process's batches from a step on, counted from 0: `accumulate` of them a step, without end.

        Step s learns from views s * images to (s + 1) * images - 1, whatever `world` and `accumulate` are;
        each part of a step goes to the processes in consecutive shares. Views are made ahead in `threads`.
        Every share must hold a view: `images >= world * accumulate`.
        """
        if images < world * accumulate:
            raise ValueError(f"{images} views cannot be shared by {world} processes in {accumulate} parts")
        depth = max(2 * threads, 2 * -(-images // world))
        with ThreadPoolExecutor(threads, thread_name_prefix="view") as pool:
            parts = self._parts(images, first_step, accumulate, rank, world)
            for positions, views in _ahead(pool, parts, self.view, depth):
                draws = [self.order.draw(p) for p in positions]
                yield make_batch(views, self.config, self.loss, draws)

    def _parts(
        self, images: int, step: int, accumulate: int, rank: int, world: int
    ) -> Iterator[tuple[range, int]]:
        """The positions of each batch, and their views' size."""
        while True:
            size = self.order.size(step, self.augment.sizes)
            positions = range(step * images, (step + 1) * images)
            for part in range(accumulate):
                yield share(share(positions, part, accumulate), rank, world), size
            step += 1


def _ahead(
    pool: ThreadPoolExecutor,
    parts: Iterator[tuple[range, int]],
    view: Callable[[int, int], Example],
    depth: int,
) -> Iterator[tuple[range, list[Example]]]:
    """The views of each part, at least `depth` of them under way before they are asked for."""
    waiting: deque[tuple[range, list[Future[Example]]]] = deque()
    try:
        while True:
            while sum(len(positions) for positions, _ in waiting) < depth:
                positions, size = next(parts)
                waiting.append((positions, [pool.submit(view, p, size) for p in positions]))
            positions, futures = waiting.popleft()
            yield positions, [future.result() for future in futures]
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()


def view_of(
    example: Example | Labelled,
    config: ModelConfig,
    augment: AugmentConfig,
    random: Random,
    size: int | None = None,
) -> Example:
    """A random view at the scale that the model's resize rule gives the whole image."""
    height, width = example.image.shape[:2]
    scale = resized_size((height, width), config.input)[0] / height
    return random_view(example, random, augment, scale, size)


def make_batch(
    views: Sequence[Example], config: ModelConfig, loss: LossConfig, draws: list[int] | None = None
) -> Batch:
    """A batch of views of one size; for BoxInst only their boxes are told, and their colours compared."""
    size = views[0].image.shape[0], views[0].image.shape[1]
    prepared = [Prepared(np.ascontiguousarray(v.image), size) for v in views]
    x = to_batch(prepared, config.input, torch.device("cpu"))
    if loss.mask != "boxinst":
        return Batch(x, [to_target(v) for v in views], draws=draws)
    valid = torch.ones(size, dtype=torch.bool)
    similarity = [
        colour_similarity(
            torch.from_numpy(p.pixels).permute(2, 0, 1), valid, loss.boxinst.kernel, loss.boxinst.dilation
        )
        for p in prepared
    ]
    return Batch(x, [to_box_target(v) for v in views], similarity, draws)
