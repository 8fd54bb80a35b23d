"""How a run is going: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jobs import structured
from jobs.tally import Tally
from pipeline.nouns import many, plural

SECONDS_BETWEEN_LINES = 5.0
GOOD = ("ok", "empty", "nodata")


@dataclass(frozen=True)
class Doing:
    """What is being done to what, in words."""

    verb: str
    noun: str
    """In the singular."""


SEGMENTING = Doing("segmenting", "image")


class RunProgress:
    """Shows images, images/s, time left and instances found; give it each shard's tally as it comes."""

    def __init__(self, total: int, done: Tally, console: Console, doing: Doing = SEGMENTING) -> None:
        self._total, self._noun = total, doing.noun
        self._before = done.images
        self._tally = done
        self._console = console
        self._began: float | None = None
        self._line = ""
        self._bar = Progress(
            TextColumn(f"[bold]{doing.verb}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, completed=done.images, line="")
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._bar.start()
        else:
            self._ticker.start()
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last state and end."""
        self.update()
        if self._console.is_terminal:
            self._bar.stop()
            return
        self._ended.set()
        self._ticker.join()
        self._print()

    def update(self, first_batch: float | None = None) -> None:
        """Take over what the tally holds; `first_batch` is the Unix time at which a shard's work began."""
        if first_batch is not None:
            self._began = min(first_batch, self._began or first_batch)
        self._line = self.line()
        self._bar.update(self._task, completed=self._tally.images, line=self._line)

    def warn(self, message: str) -> None:
        """Print a line beside the bar."""
        structured.event("warning", logging.WARNING, message=message)
        self._console.print(message, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def rate(self) -> float:
        """Images a second since the first batch of this run; what starting the workers took is left out."""
        if self._began is None:
            return 0.0
        return (self._tally.images - self._before) / max(1e-3, time.time() - self._began)

    def line(self) -> str:
        """The state in words: `120/400 images · 14.2 images/s · 3,041 instances · 2 corrupt`."""
        tally = self._tally
        parts = [f"{tally.images:,}/{many(self._total, self._noun)}"]
        if tally.images == self._before:
            parts.append("starting")
        elif self._began is not None:  # else there is no rate: what was done needed no model
            parts.append(f"{self.rate():.1f} {plural(0, self._noun)}/s")
        parts.append(many(tally.instances, "instance"))
        parts += [
            f"{count:,} {status}" for status, count in sorted(tally.statuses.items()) if status not in GOOD
        ]
        return " · ".join(parts)

    def _tick(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            self._print()

    def _print(self) -> None:
        left = self._total - self._tally.images
        rate = self.rate()
        so_far = {"images": self._tally.images, "planned": self._total, "instances": self._tally.instances}
        structured.event("progress", **so_far, images_per_second=round(rate, 3))
        ending = f" · {duration(left / rate)} left" if left and rate > 0 else ""
        # The line as `update` made it: the tally may change under this thread's feet.
        self._console.print(f"{self._line}{ending}", highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
