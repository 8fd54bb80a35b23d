"""What a spec lets a run cost: `timeout` for one run, `max_gpu_hours` for all runs of a segment job.

Of a training both are for one run: its output does not say what runs took that reached no checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Timer
from typing import Self

from jobs.conventions import JobSpec
from jobs.errors import ExitCode, Interrupted
from jobs.progress import duration
from jobs.quantities import seconds
from jobs.stopping import Stop
from jobs.tally import Tally

HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """A run's limits; without any it may take what it takes."""

    timeout: float | None = None
    """Seconds."""
    max_gpu_hours: float | None = None
    spent: float = 0.0
    """GPU hours that earlier runs took."""
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        """A spec's limits, for a run that begins now."""
        return cls(None if spec.timeout is None else float(seconds(spec.timeout)), spec.max_gpu_hours)

    def after(self, tally: Tally, gpus: float) -> Self:
        """The same after what the tally's workers, of so many GPUs each, have done.

        Of a worker counts the time from its first batch to its last: that is what commits say.
        """
        before = sum(busy.last - busy.first for busy in tally.workers.values()) * gpus / HOUR
        return replace(self, spent=before)

    @contextmanager
    def watch(self, stop: Stop, gpus: float) -> Iterator[None]:
        """Inside, a pool that holds so many GPUs: ask it to stop when a limit is reached.

        A timeout leaves what is in work the usual grace; a budget, the time to end its shards. Raises
        Interrupted at once when nothing is left.
        """
        timers: list[Timer] = []
        if self.timeout is not None:
            left = self.timeout - (time.monotonic() - self.began)
            message = f"the run took longer than timeout, {duration(self.timeout)}; {stop.remedy}"
            timers.append(Timer(max(0.0, left), stop.ask, [Interrupted(message, ExitCode.LIMIT)]))
        if self.max_gpu_hours is not None and gpus:
            timers.append(self._budget(stop, gpus))
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _budget(self, stop: Stop, gpus: float) -> Timer:
        assert self.max_gpu_hours is not None
        left = self.max_gpu_hours - self.spent
        remedy = f"{stop.remedy}, with a higher max_gpu_hours"
        if left <= 0:
            taken = f"earlier runs took {self.spent:.2f} GPU hours of max_gpu_hours {self.max_gpu_hours:g}"
            raise Interrupted(f"{taken}; {remedy}", ExitCode.LIMIT)
        message = f"the job has taken its max_gpu_hours, {self.max_gpu_hours:g}; {remedy}"
        reason = Interrupted(message, ExitCode.LIMIT)
        return Timer(left * HOUR / gpus, stop.ask, [reason], {"patient": True})
