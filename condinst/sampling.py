"""In which order images are learned from: a function of seed and position, so one can enter it anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from condinst.augment import Random

Numbers = NDArray[np.int64]
_SOURCE, _EPOCH, _VIEW, _SIZE = range(4)
"""What a generator is for; part of its seed, so that no two draw alike."""


@dataclass(frozen=True)
class Order:
    """An endless order of the images of some sources; position p is the same image at every run.

    In an epoch an image of a source of weight 1 comes once, of weight 2 twice, of weight 0.5 in every second
    epoch; each epoch is shuffled as a whole. Raises ValueError where there is nothing to draw from.
    """

    counts: tuple[int, ...]
    """Images of each source; images are numbered source after source."""
    weights: tuple[float, ...]
    """How often an image of each source comes in an epoch, > 0."""
    seed: int

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.weights) or not sum(self.counts) or min(self.weights) <= 0:
            raise ValueError(f"nothing to draw from {self.counts} images of weights {self.weights}")

    @property
    def epoch(self) -> float:
        """Positions in an epoch, on average."""
        return sum(w * n for w, n in zip(self.weights, self.counts, strict=True))

    def item(self, position: int) -> int:
        """Number of the image at a position."""
        epoch = int(position / self.epoch)
        while self._before(epoch) > position:
            epoch -= 1
        while self._before(epoch + 1) <= position:
            epoch += 1
        return int(_epoch(self, epoch)[position - self._before(epoch)])

    def random(self, position: int) -> Random:
        """What makes the view at a position."""
        return np.random.default_rng((self.seed, _VIEW, position))

    def size(self, step: int, sizes: Sequence[int]) -> int:
        """One of the sizes, for a whole step."""
        return sizes[int(np.random.default_rng((self.seed, _SIZE, step)).integers(len(sizes)))]

    def draw(self, position: int) -> int:
        """What seeds the losses' random choices in the view at a position: 0 to 2^63 - 2."""
        return int(np.random.default_rng((self.seed, _VIEW, position, 1)).integers(2**63 - 1))

    def _before(self, epoch: int) -> int:
        """Positions before an epoch."""
        return sum(_taken(n, w, epoch) for n, w in zip(self.counts, self.weights, strict=True))


@dataclass(frozen=True)
class Lot:
    """Images that lie, or that stand: a step learns from those of one lot, so its views have one shape."""

    order: Order
    lying: bool
    numbers: tuple[int, ...] | None = None
    """Of each of its images the number among all; None where the lot is all."""

    def __len__(self) -> int:
        return sum(self.order.counts)

    def number(self, own: int) -> int:
        """An image's number among all from that in the lot."""
        return own if self.numbers is None else self.numbers[own]


@dataclass(frozen=True)
class Lots:
    """An order's images by whether they lie or stand; each lot has the steps that its images are worth."""

    lots: tuple[Lot, ...]

    @classmethod
    def of(cls, order: Order, lying: Sequence[bool] | None) -> Lots:
        """`lying` says of each image of the order whether it does; None makes no difference between them."""
        if lying is None:
            return cls((Lot(order, lying=True),))
        found = []
        for kind in (True, False):
            numbers = tuple(number for number, lies in enumerate(lying) if lies == kind)
            ends = np.cumsum(order.counts).tolist()
            counts = np.diff([0, *np.searchsorted(numbers, ends)]).tolist()
            if numbers:
                found.append(Lot(Order(tuple(counts), order.weights, order.seed), kind, numbers))
        return cls(tuple(found))

    def of_step(self, step: int) -> tuple[Lot, int]:
        """The lot that a step, counted from 0, learns from, and how many steps before it did."""
        if len(self.lots) == 1:
            return self.lots[0], step
        first, second = self.lots
        share = first.order.epoch / (first.order.epoch + second.order.epoch)
        before = math.floor(step * share)
        return (first, before) if math.floor((step + 1) * share) > before else (second, step - before)


def _taken(count: int, weight: float, epoch: int) -> int:
    """Images drawn of a source before an epoch."""
    return math.floor(epoch * weight * count)


@lru_cache(4)
def _epoch(order: Order, epoch: int) -> Numbers:
    """The images of an epoch in their order."""
    parts, first = [], 0
    for source, (count, weight) in enumerate(zip(order.counts, order.weights, strict=True)):
        begin, end = _taken(count, weight, epoch), _taken(count, weight, epoch + 1)
        parts.append(first + _stretch(order.seed, source, count, begin, end))
        first += count
    return np.random.default_rng((order.seed, _EPOCH, epoch)).permutation(np.concatenate(parts))


def _stretch(seed: int, source: int, count: int, begin: int, end: int) -> Numbers:
    """Draws `begin` to `end` of a source that is shuffled anew each time it is through."""
    if begin == end:
        return np.zeros(0, np.int64)
    rounds = range(begin // count, (end - 1) // count + 1)
    drawn = [np.random.default_rng((seed, _SOURCE, source, r)).permutation(count) for r in rounds]
    return np.concatenate(drawn)[begin - rounds[0] * count : end - rounds[0] * count]


def share(positions: range, part: int, parts: int) -> range:
    """One of `parts` consecutive shares of a range; their lengths differ by one at most."""
    size, more = divmod(len(positions), parts)
    begin = positions.start + part * size + min(part, more)
    return range(begin, begin + size + (part < more))
