"""Batches of equal padded shape from images in manifest order.

Which images share a batch moves their scores by rounding, so it must not depend on what arrives first. Every
rule here looks at the order and the shapes only: the same shard gives the same batches on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Protocol, TypeVar

WAITING_BATCHES = 4
"""Open buckets may hold this many batches' pixels together before the oldest is closed."""
WAITING_BYTES = 512 * 2**20
"""And so many bytes: a GPU's batch has room for so many pixels that four could be a whole shard."""
PIXEL_BYTES = 3
"""Of an image that is decoded and waits."""


class Padded(Protocol):
    """Anything with the (height, width) of its network input."""

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...


Item = TypeVar("Item", bound=Padded)


def _shape(item: Padded) -> Hashable:
    return item.padded


def batches(
    items: Iterable[Item], images: int, pixels: int, alike: Callable[[Item], Hashable] = _shape
) -> Iterator[list[Item]]:
    """Cut items, in order, into lists of one padded shape of at most `images` items and `pixels` pixels.

    `alike` says what the items of a list share, where that is more than the shape. An item larger than
    `pixels` is alone. A batch is given out as soon as it is full; when the open ones hold more than four
    batches' pixels together, or more than 512 MiB, the one opened first is given out as it is, so that a
    shard of many shapes stays in bounded memory; the last that is open may grow until it is full. What is
    left at the end follows in order of opening.
    """
    most = min(WAITING_BATCHES * pixels, WAITING_BYTES // PIXEL_BYTES)
    open_buckets: dict[Hashable, list[Item]] = {}
    waiting = 0
    for item in items:
        key = alike(item)
        area = _area(item)
        bucket = open_buckets.setdefault(key, [])
        bucket.append(item)
        waiting += area
        if len(bucket) >= min(images, max(1, pixels // area)):
            waiting -= area * len(bucket)
            yield open_buckets.pop(key)
        while waiting > most and len(open_buckets) > 1:
            oldest = next(iter(open_buckets))
            waiting -= sum(map(_area, open_buckets[oldest]))
            yield open_buckets.pop(oldest)
    while open_buckets:  # each given away, not kept beside what is made of it
        yield open_buckets.pop(next(iter(open_buckets)))


def _area(item: Padded) -> int:
    height, width = item.padded
    return height * width
