"""The model's own thread, one batch at a time, the older shard's first; and those that encode behind it.

What the device has to do for a batch is begun in the first; the masks that come of it are encoded, on the
host alone, in the others, while the next batch is begun. A batch that fails on either side is gone through in
parts, in the model's thread.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from condinst.instances import Instances, RleMasks
from condinst.masks import MaskChanges
from condinst.memory import lacks_memory
from condinst.model import Later, at_once
from condinst.preprocess import Prepared
from pipeline.care import Care, Way
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits
from pipeline.steps import reached
from pipeline.watchdog import die

Finish = Callable[[], list[Instances]]
Begin = Callable[[Sequence[Prepared], Later], Finish]
"""Does a batch's work on the device, as `CondInst.begin`; what it returns gives the instances anywhere."""

BATCHES = 2
"""Begun and not yet encoded: one in the model, one behind it."""
WAITING_BYTES = 256 * 2**20
"""Of what waits to be encoded; the model waits for room. A piece that is larger waits alone."""


T = TypeVar("T")


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
    future: Future[Any] = field(compare=False)
    failed: Exception | None = field(default=None, compare=False)
    """What went wrong when it was encoded, after it had been through the model."""
    work: Callable[[Sequence[Prepared]], object] | None = field(default=None, compare=False)
    """What is done instead of finding instances, and gives the result."""


class Inference:
    """Runs `begin` in a thread that does nothing else, with a fixed number of threads for torch.

    `encoders` is how many threads encode: a GPU finds masks sooner than one of them can.

    Batches of the shard with the lower ticket go first: it ends, and is encoded and committed, while the
    younger one keeps the model busy. Were they served in turn, both would end at once and the model idle.
    """

    def __init__(self, begin: Begin, threads: int, encoders: int = 1) -> None:
        self._begin = begin
        self._queue: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._behind = _Behind(encoders)
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

    def ask(
        self,
        ticket: int,
        batch: Sequence[Prepared],
        work: Callable[[Sequence[Prepared]], T],
        clock: Clock,
        care: Care,
        images: Sequence[str],
    ) -> Future[T]:
        """Queue something else that the model is to do with images, all of them at once."""
        future: Future[T] = Future()
        self._queue.put(_Job(ticket, next(self._numbers), batch, images, clock, care, future, work=work))
        return future

    def close(self) -> None:
        """End the threads after the batches that are queued."""
        care = Care(DecodeLimits())
        self._queue.put(_Job(_LAST, next(self._numbers), (), (), Clock(), care, Future()))
        self._thread.join()

    def _run(self, threads: int) -> None:
        # A setting of the process that each thread takes over when it first computes: set it where it counts.
        torch.set_num_threads(threads)
        while (job := self._queue.get()).ticket != _LAST or self._more(job):
            if job.ticket == _LAST:
                continue
            try:
                self._serve(job)
            except BaseException as error:
                job.future.set_exception(error)

    def _more(self, last: _Job) -> bool:
        """End the threads behind; whether they have left something to do before the last job."""
        self._behind.close()
        if self._queue.empty():
            return False
        self._queue.put(last)
        return True

    def _serve(self, job: _Job) -> None:
        way, whole = job.care.way(job.images), range(len(job.batch))
        if job.work is not None:
            self._behind.settle()
            done, _ = self._timed(job, whole, job.work)
            if isinstance(done, Exception):
                raise done
            job.future.set_result(done)
            return
        if job.failed is not None:  # while it was encoded
            _recover()
            job.future.set_result(self._apart(job, whole, job.failed, 0.0))
            return
        if way is Way.WHOLE and job.care.overlaps:
            self._overlap(job, whole)
            return
        self._behind.settle()  # of what then ends the process, only what is inside the model is suspected
        if way is Way.TRIED:
            for one in whole:  # what it says of them is not what it says of the batch, by rounding
                self._enter(job, range(one, one + 1))
        if way is Way.ALONE:
            job.clock.split()
            job.future.set_result(self._parts(job, whole, 1))
        else:
            job.future.set_result(self._infer(job, whole))

    def _overlap(self, job: _Job, whole: range) -> None:
        """Begin a batch, and leave what remains to the thread behind."""
        self._behind.enter()

        def later(changes: MaskChanges) -> Callable[[], RleMasks]:
            return self._behind.encode(changes, job)

        finish, ms = self._timed(job, whole, lambda batch: self._begin(batch, later))
        if isinstance(finish, Exception):
            self._behind.leave()
            job.future.set_result(self._apart(job, whole, finish, ms))
        else:
            self._behind.finish(finish, job, ms, self._queue.put)

    def _infer(self, job: _Job, part: range) -> list[Inferred]:
        """A part that does not fit into memory is cut in two; one that fails otherwise, into its images."""
        found, ms = self._enter(job, part)
        if not isinstance(found, Exception):
            return [Inferred(one, ms / len(part)) for one in found]
        return self._apart(job, part, found, ms)

    def _apart(self, job: _Job, part: range, error: Exception, ms: float) -> list[Inferred]:
        """The same of a part that failed."""
        if len(part) == 1:
            return [Inferred(error, ms)]
        if isinstance(error, OutOfMemory):
            job.clock.split()
            return self._parts(job, part, (len(part) + 1) // 2)
        return self._parts(job, part, 1)

    def _parts(self, job: _Job, part: range, size: int) -> list[Inferred]:
        parts = [part[start : start + size] for start in range(0, len(part), size)]
        return [inferred for smaller in parts for inferred in self._infer(job, smaller)]

    def _enter(self, job: _Job, part: range) -> tuple[list[Instances] | Exception, float]:
        """What the model says of some of a job's images, or the error that it raised; and milliseconds."""
        return self._timed(job, part, lambda batch: self._begin(batch, at_once)())

    def _timed(
        self, job: _Job, part: range, work: Callable[[Sequence[Prepared]], T]
    ) -> tuple[T | Exception, float]:
        """What comes of some of a job's images inside the model, or the error; and milliseconds."""
        whole = len(part) == len(job.batch)
        batch = job.batch if whole else [job.batch[place] for place in part]
        with job.care.inside([job.images[place] for place in part]):
            reached("infer", job.clock.shard)
            start = time.monotonic()
            try:
                found: T | Exception = work(batch)
            except Exception as error:
                found = _kept(error, batch)
            end = time.monotonic()
            job.clock.batch(start, end)
            if isinstance(found, Exception):
                _recover()
        return found, (end - start) * 1000


class _Behind:
    """The threads that encode what the model's thread has found, begun in the order in which it was found.

    So what waits for something encoded in one of them waits for what is done, or at work in another.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "behind")
        self._batches = threading.Semaphore(BATCHES)
        self._changed = threading.Condition()
        self._waiting = 0

    def close(self) -> None:
        """End the threads after what they were given."""
        self._threads.shutdown()

    def enter(self) -> None:
        """Before a batch is begun: wait until there is room for it."""
        self._batches.acquire()

    def leave(self) -> None:
        """After a batch that came to nothing or is encoded."""
        self._batches.release()

    def settle(self) -> None:
        """Wait until nothing is left to encode."""
        for _ in range(BATCHES):
            self._batches.acquire()
        self._batches.release(BATCHES)

    def encode(self, changes: MaskChanges, job: _Job) -> Callable[[], RleMasks]:
        """Have masks of a job encoded, once there is room for them to wait; returns what gives them."""
        held = changes.numbers.nbytes
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._waiting + held <= WAITING_BYTES)
            self._waiting += held
        return self._threads.submit(self._encoded, changes, job, held).result

    def _encoded(self, changes: MaskChanges, job: _Job, held: int) -> RleMasks:
        try:
            with job.care.behind(job.images):
                return changes.masks()
        finally:
            with self._changed:
                self._waiting -= held
                self._changed.notify_all()

    def finish(self, finish: Finish, job: _Job, ms: float, again: Callable[[_Job], None]) -> None:
        """Have a job's instances put together; it is given to `again` if that fails."""
        self._threads.submit(self._finished, finish, job, ms, again)

    def _finished(self, finish: Finish, job: _Job, ms: float, again: Callable[[_Job], None]) -> None:
        start = time.monotonic()
        try:
            with job.care.behind(job.images):
                found = finish()
            end = time.monotonic()
            job.clock.finished(end)
            each = (ms + (end - start) * 1000) / len(job.batch)
            job.future.set_result([Inferred(one, each) for one in found])
        except Exception as error:
            again(replace(job, failed=_kept(error, job.batch)))
        finally:
            self.leave()


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
