"""How far a loop is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0

T = TypeVar("T")


def counted(items: Iterable[T], total: int, doing: str, console: Console) -> Iterator[T]:
    """The same items, with `doing: 12/496 images` shown as each is asked for."""
    if console.is_terminal:
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            yield from bar.track(items, total=total, description=doing)
        return
    began = shown = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - shown >= SECONDS_BETWEEN_LINES:
            shown = now
            rate = f"{number / (now - began):.1f} images/s"
            console.print(f"{doing}: {number:,}/{total:,} images, {rate}", highlight=False)
        yield item
