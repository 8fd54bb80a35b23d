"""Work done ahead of whoever takes its results, by a bounded number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T], depth: int
) -> Iterator[R]:
    """`function` of each item, in order, at most `depth` of them computed before they are asked for."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
