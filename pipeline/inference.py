"""The model's own thread: one batch at a time, the older shard's first."""

from __future__ import annotations

import itertools
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from condinst.model import Instances
from condinst.preprocess import Prepared
from pipeline.care import Care, Way
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits
from pipeline.steps import reached
from pipeline.watchdog import die

Predict = Callable[[Sequence[Prepared]], list[Instances]]

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|_ALLOC(ATION)?_FAILED", re.IGNORECASE
)
"""How torch says so where it raises a plain RuntimeError: its CPU allocator, CUDA's driver, cuDNN, cuBLAS."""


class OutOfMemory(Exception):
    """A batch that does not fit into the model's memory."""


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
    images: Sequence[str] = field(compare=False)
    """Their ids."""
    clock: Clock = field(compare=False)
    care: Care = field(compare=False)
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

    def submit(
        self,
        ticket: int,
        batch: Sequence[Prepared],
        clock: Clock,
        care: Care | None = None,
        images: Sequence[str] | None = None,
    ) -> Future[list[Inferred]]:
        """Queue a batch of one padded shape; the result has an entry an image, in order.

        `images` are their ids, which `care` knows them by.
        """
        care = care or Care(DecodeLimits(), clock.shard)
        images = [str(number) for number in range(len(batch))] if images is None else images
        future: Future[list[Inferred]] = Future()
        self._queue.put(_Job(ticket, next(self._numbers), batch, images, clock, care, future))
        return future

    def close(self) -> None:
        """End the thread after the batches that are queued."""
        care = Care(DecodeLimits())
        self._queue.put(_Job(_LAST, next(self._numbers), (), (), Clock(), care, Future()))
        self._thread.join()

    def _run(self, threads: int) -> None:
        # A setting of the process that each thread takes over when it first computes: set it where it counts.
        torch.set_num_threads(threads)
        while (job := self._queue.get()).ticket != _LAST:
            try:
                job.future.set_result(self._serve(job))
            except BaseException as error:
                job.future.set_exception(error)

    def _serve(self, job: _Job) -> list[Inferred]:
        way, whole = job.care.way(job.images), range(len(job.batch))
        if way is Way.TRIED:
            for one in whole:  # what it says of them is not what it says of the batch, by rounding
                self._enter(job, range(one, one + 1))
        if way is Way.ALONE:
            job.clock.split()
            return self._parts(job, whole, 1)
        return self._infer(job, whole)

    def _infer(self, job: _Job, part: range) -> list[Inferred]:
        """A part that does not fit into memory is cut in two; one that fails otherwise, into its images."""
        found, ms = self._enter(job, part)
        if not isinstance(found, Exception):
            return [Inferred(one, ms / len(part)) for one in found]
        if len(part) == 1:
            return [Inferred(found, ms)]
        if isinstance(found, OutOfMemory):
            job.clock.split()
            return self._parts(job, part, (len(part) + 1) // 2)
        return self._parts(job, part, 1)

    def _parts(self, job: _Job, part: range, size: int) -> list[Inferred]:
        parts = [part[start : start + size] for start in range(0, len(part), size)]
        return [inferred for smaller in parts for inferred in self._infer(job, smaller)]

    def _enter(self, job: _Job, part: range) -> tuple[list[Instances] | Exception, float]:
        """What the model says of some of a job's images, or the error that it raised; and milliseconds."""
        batch = [job.batch[place] for place in part]
        with job.care.inside([job.images[place] for place in part]):
            reached("infer", job.clock.shard)
            start = time.monotonic()
            try:
                found: list[Instances] | Exception = self._predict(batch)
            except Exception as error:
                found = _kept(error, batch)
            end = time.monotonic()
            job.clock.batch(start, end)
            if isinstance(found, Exception):
                _recover()
        return found, (end - start) * 1000


def lacks_memory(error: Exception) -> bool:
    """Whether an error of the model says that the GPU's memory, or the machine's, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def _kept(error: Exception, batch: Sequence[Prepared]) -> Exception:
    """The error without its frames: they hold the tensors of the batch that failed."""
    if lacks_memory(error):
        height, width = batch[0].padded
        # What torch says has the process's id and the bytes of the day, and rows must not.
        return OutOfMemory(f"the model, with an input of {height}x{width} pixels")
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _recover() -> None:
    """Give memory back; end the process where the GPU answers it no more: nothing would succeed again."""
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        die(f"the GPU cannot be used any more ({error})".partition("\n")[0])


_LAST = 2**62
