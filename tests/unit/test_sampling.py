"""The order of images: every image as often as its source's weight says, the same wherever one enters."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condinst.sampling import Order, share

SOURCES = st.lists(st.tuples(st.integers(1, 20), st.floats(0.1, 4)), min_size=1, max_size=3)


@given(sources=SOURCES, seed=st.integers(0, 99), epochs=st.integers(1, 6))
def test_an_image_comes_as_often_as_its_weight_says(
    sources: list[tuple[int, float]], seed: int, epochs: int
) -> None:
    counts, weights = zip(*sources, strict=True)
    order = Order(counts, weights, seed)
    end = order._before(epochs)
    seen = Counter(order.item(position) for position in range(end))
    first = 0
    for count, weight in sources:
        times = [seen[number] for number in range(first, first + count)]
        assert max(times) - min(times) <= 1
        assert abs(sum(times) - epochs * weight * count) < 1
        first += count
    assert sum(seen.values()) == end
    assert max(seen, default=0) < first


@given(seed=st.integers(0, 99), position=st.integers(0, 10**7))
def test_a_position_is_the_same_image_at_every_run(seed: int, position: int) -> None:
    order, again = Order((7, 3), (1, 0.3), seed), Order((7, 3), (1, 0.3), seed)
    [again.item(p) for p in range(max(0, position - 3), position)]
    assert order.item(position) == again.item(position)
    assert order.random(position).integers(2**62) == again.random(position).integers(2**62)
    assert order.draw(position) == again.draw(position)


def test_seeds_give_other_orders() -> None:
    a, b = ([Order((50,), (1,), seed).item(p) for p in range(50)] for seed in (0, 1))
    assert a != b


@given(begin=st.integers(0, 99), size=st.integers(0, 50), parts=st.integers(1, 9))
def test_shares_are_the_whole_in_order_and_of_one_size(begin: int, size: int, parts: int) -> None:
    whole = range(begin, begin + size)
    shares = [share(whole, part, parts) for part in range(parts)]
    assert [p for s in shares for p in s] == list(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw from"):
        Order((0,), (1,), 0)
