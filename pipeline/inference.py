"""The model's own thread: one batch at a time, the older shard's first."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from condinst.model import Instances
from condinst.preprocess import Prepared
from pipeline.clock import Clock
from pipeline.steps import reached

Predict = Callable[[Sequence[Prepared]], list[Instances]]


@dataclass(frozen=True)
class Inferred:
    """What the model said of one image: its instances, or the error that it alone caused."""

    found: Instances | Exception
    ms: float
    """Time in the model; an image's share of its batch."""


@dataclass(frozen=True, order=True)
class _Job:
    ticket: int
    number: int
    batch: Sequence[Prepared] = field(compare=False)
    clock: Clock = field(compare=False)
    future: Future[list[Inferred]] = field(compare=False)


class Inference:
    """Runs `predict` in a thread that does nothing else, with a fixed number of threads for torch.

    Batches of the shard with the lower ticket go first: it ends, and is encoded and committed, while the
    younger one keeps the model busy. Were they served in turn, both would end at once and the model idle.
    """

    def __init__(self, predict: Predict, threads: int) -> None:
        self._predict = predict
        self._queue: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, args=(threads,), name="model", daemon=True)
        self._thread.start()

    def submit(self, ticket: int, batch: Sequence[Prepared], clock: Clock) -> Future[list[Inferred]]:
        """Queue a batch of one padded shape; the result has an entry an image, in order."""
        future: Future[list[Inferred]] = Future()
        self._queue.put(_Job(ticket, next(self._numbers), batch, clock, future))
        return future

    def close(self) -> None:
        """End the thread after the batches that are queued."""
        self._queue.put(_Job(_LAST, next(self._numbers), (), Clock(), Future()))
        self._thread.join()

    def _run(self, threads: int) -> None:
        # A setting of the process that each thread takes over when it first computes: set it where it counts.
        torch.set_num_threads(threads)
        while (job := self._queue.get()).ticket != _LAST:
            try:
                job.future.set_result(self._infer(job.batch, job.clock))
            except BaseException as error:
                job.future.set_exception(error)

    def _infer(self, batch: Sequence[Prepared], clock: Clock) -> list[Inferred]:
        """A batch that fails is run again image by image, so that only the culprit fails."""
        reached("infer", clock.shard)
        start = time.monotonic()
        try:
            found: list[Instances] | Exception = self._predict(batch)
        except Exception as error:
            found = error
        end = time.monotonic()
        clock.batch(start, end)
        if not isinstance(found, Exception):
            return [Inferred(one, (end - start) * 1000 / len(batch)) for one in found]
        if len(batch) == 1:
            return [Inferred(found, (end - start) * 1000)]
        return [inferred for one in batch for inferred in self._infer([one], clock)]


_LAST = 2**62
