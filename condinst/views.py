"""Training batches: random views of examples, each a function of the seed and its position alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
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
from condinst.sampling import Lot, Lots, Order, share


@dataclass(frozen=True)
class Views:
    """Views of examples in an order; view p is the same whoever makes it, and whenever."""

    load: Callable[[int], Example | Labelled | None]
    """An example by its number, or None where another has to take its place; called from threads."""
    order: Order
    config: ModelConfig
    loss: LossConfig
    augment: AugmentConfig
    sizes: Sequence[tuple[int, int]] | None = None
    """(height, width) of each example, where views lie or stand as these do (`AugmentConfig.aspect`)."""

    @cached_property
    def _lots(self) -> Lots:
        if self.augment.aspect > 1 and self.sizes is None:
            raise ValueError("views that lie or stand need the sizes of the examples")
        sizes = self.sizes if self.augment.aspect > 1 else None
        return Lots.of(self.order, None if sizes is None else [width >= height for height, width in sizes])

    def _view(self, place: _Place) -> Example:
        """The view at a place.

        In the place of an example that cannot be had stands the next of the order that can; in the place of
        one that is pasted, the next by number. Raises LookupError where there is none.
        """
        lot, random = place.lot, self.order.random(place.position)
        example = self._first(lot, map(lot.order.item, count(place.own)))
        view = view_of(example, self.config, self.augment, random, place.shape)
        if random.random() >= self.augment.copy_paste:
            return view
        number = int(random.integers(len(lot)))
        other = self._first(lot, chain(range(number, len(lot)), range(number)))
        pasted = view_of(other, self.config, self.augment, random, place.shape)
        return random_paste(view, pasted, random)

    def _first(self, lot: Lot, numbers: Iterable[int]) -> Example | Labelled:
        """The first of some of a lot's examples that can be had."""
        tried: set[int] = set()
        for number in numbers:
            if (example := self.load(lot.number(number))) is not None:
                return example
            tried.add(number)
            if len(tried) == len(lot):
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
            for places, views in _ahead(pool, parts, self._view, depth):
                draws = [self.order.draw(place.position) for place in places]
                yield make_batch(views, self.config, self.loss, draws)

    def _parts(
        self, images: int, step: int, accumulate: int, rank: int, world: int
    ) -> Iterator[list[_Place]]:
        """The places of each batch."""
        while True:
            lot, before = self._lots.of_step(step)
            shape = self.augment.shape(self.order.size(step, self.augment.sizes), lot.lying)
            positions = range(step * images, (step + 1) * images)
            for part in range(accumulate):
                own = share(share(positions, part, accumulate), rank, world)
                yield [_Place(p, p + (before - step) * images, shape, lot) for p in own]
            step += 1


@dataclass(frozen=True)
class _Place:
    """Where a view stands."""

    position: int
    """Among all views: what makes it random."""
    own: int
    """Among those of its lot: which example it is of."""
    shape: tuple[int, int]
    lot: Lot


def _ahead(
    pool: ThreadPoolExecutor,
    parts: Iterator[list[_Place]],
    view: Callable[[_Place], Example],
    depth: int,
) -> Iterator[tuple[list[_Place], list[Example]]]:
    """The views of each part, at least `depth` of them under way before they are asked for."""
    waiting: deque[tuple[list[_Place], list[Future[Example]]]] = deque()
    try:
        while True:
            while sum(len(places) for places, _ in waiting) < depth:
                places = next(parts)
                waiting.append((places, [pool.submit(view, place) for place in places]))
            places, futures = waiting.popleft()
            yield places, [future.result() for future in futures]
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()


def view_of(
    example: Example | Labelled,
    config: ModelConfig,
    augment: AugmentConfig,
    random: Random,
    shape: tuple[int, int] | None = None,
) -> Example:
    """A random view at the scale that the model's resize rule gives the whole image."""
    height, width = example.image.shape[:2]
    scale = resized_size((height, width), config.input)[0] / height
    return random_view(example, random, augment, scale, shape)


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
