"""Batches follow from order and shapes alone, and hold bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import PIXEL_BYTES, WAITING_BATCHES, WAITING_BYTES, batches


@dataclass(frozen=True)
class Item:
    index: int
    padded: tuple[int, int]


SHAPES = st.sampled_from([(32, 32), (32, 64), (64, 32), (64, 64), (128, 128), (256, 512)])
ITEMS = st.lists(SHAPES, max_size=80).map(lambda shapes: [Item(i, shape) for i, shape in enumerate(shapes)])
IMAGES = st.integers(1, 9)
PIXELS = st.sampled_from([1, 2048, 2**14, 2**17, 2**22])


@given(ITEMS, IMAGES, PIXELS)
def test_every_item_is_in_one_batch_of_its_shape_and_in_order(
    items: list[Item], images: int, pixels: int
) -> None:
    made = list(batches(items, images, pixels))
    assert sorted(item.index for batch in made for item in batch) == list(range(len(items)))
    for batch in made:
        assert len({item.padded for item in batch}) == 1
        assert [item.index for item in batch] == sorted(item.index for item in batch)
    for shape in {item.padded for item in items}:
        in_order = [item.index for batch in made for item in batch if item.padded == shape]
        assert in_order == sorted(in_order), "batches of a shape follow each other in manifest order"


@given(ITEMS, IMAGES, PIXELS)
def test_batches_keep_both_limits(items: list[Item], images: int, pixels: int) -> None:
    for batch in batches(items, images, pixels):
        area = batch[0].padded[0] * batch[0].padded[1]
        assert len(batch) <= images
        assert len(batch) == 1 or len(batch) * area <= pixels


@given(ITEMS, IMAGES, PIXELS)
def test_what_waits_is_bounded(items: list[Item], images: int, pixels: int) -> None:
    waiting, most = 0, 0

    def counted() -> Iterator[Item]:
        nonlocal waiting, most
        for item in items:
            yield item
            waiting += item.padded[0] * item.padded[1]

    for batch in batches(counted(), images, pixels):
        most = max(most, waiting)
        waiting -= sum(item.padded[0] * item.padded[1] for item in batch)
    assert most <= WAITING_BATCHES * pixels + 256 * 512


def test_what_waits_is_bounded_by_bytes_too() -> None:
    """Where a number of images alone limits a batch, a shard of many shapes still does not wait whole."""
    items = [Item(i, (4000, 4000 + 32 * (i % 20))) for i in range(40)]
    waiting = most = 0

    def counted() -> Iterator[Item]:
        nonlocal waiting, most
        for item in items:
            yield item
            waiting += item.padded[0] * item.padded[1]
            most = max(most, waiting)

    for batch in batches(counted(), 64, 2**40):
        waiting -= sum(item.padded[0] * item.padded[1] for item in batch)
    assert most * PIXEL_BYTES <= WAITING_BYTES + items[-1].padded[0] * items[-1].padded[1] * PIXEL_BYTES
    alike = [Item(i, (4000, 4000)) for i in range(40)]
    assert [len(batch) for batch in batches(alike, 20, 2**40)] == [20, 20], "one full batch may be larger"


def test_one_shape_fills_batches_in_order() -> None:
    items = [Item(i, (32, 32)) for i in range(7)]
    assert [[i.index for i in batch] for batch in batches(items, 3, 2**20)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_leftovers_follow_in_order_of_first_appearance() -> None:
    shapes = [(64, 64), (32, 32), (96, 32), (32, 32), (64, 64)]
    items = [Item(i, shape) for i, shape in enumerate(shapes)]
    assert [[i.index for i in batch] for batch in batches(items, 3, 2**20)] == [[0, 4], [1, 3], [2]]


def test_a_batch_is_given_out_before_the_next_item_is_asked_for() -> None:
    asked = []

    def items() -> Iterator[Item]:
        for index in range(4):
            asked.append(index)
            yield Item(index, (32, 32))

    next(batches(items(), 2, 2**20))
    assert asked == [0, 1]
