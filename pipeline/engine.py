"""Hands shards to workers and survives their deaths: on Ray, or in this process.

On Ray it is Ray Data's actor pool with one row = one shard id. Nothing but ids and reports crosses it; a
shard whose worker dies is handed out again by Ray. What makes it count once is the ledger, not the engine.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.cluster import ClusterTooSmall, cluster, room
from pipeline.metrics import RunMetrics
from pipeline.progress import clear_progress
from pipeline.results import ShardResult
from pipeline.retry import Retry
from pipeline.settings import SegmentSettings
from pipeline.stopping import RunFlag
from pipeline.storage import Store, StoreError

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

__all__ = ["ClusterTooSmall", "NothingWorks", "cluster", "run", "run_local"]

IN_FLIGHT = 2
"""Shards a worker has in work: one's fetching and committing overlaps the other's inference."""

BLOCKS = 1000
"""Shards up to which the driver makes their blocks itself, some 1.5 ms each; beyond, tasks of Ray do."""

FAILURES = 10
"""Shards in a row that may fail before a run is given up; half as many a worker where that is more."""

JOIN_SECONDS = 5.0
"""How long a run's end waits for a request that tells its workers to stop, and for Ray Data's threads."""

READER = "iter_threaded"
"""Ray Data's name of the threads behind `iter_batches`, which itself does not wait for them."""

STOP_LOOK = 0.25
"""Seconds between two looks at whether the run is to stop, and between two tries to tell its workers."""

OnResult = Callable[[ShardResult], None]
Stop = Callable[[], bool]


class NothingWorks(Exception):
    """Shard after shard failed; the message holds the last one's error."""


def run_local(
    settings: SegmentSettings,
    shards: Sequence[str],
    *,
    on_result: OnResult,
    stop: Stop | None = None,
    retry: Retry | None = None,
) -> None:
    """Segment shards in this process, with the same worker and the same rows as on Ray.

    `on_result` is called in this thread as each shard ends, `ShardResult.error` set where it could not be
    committed: the caller asks the ledger what is still pending. Once `stop` says so, no shard is begun. With
    `retry` the shards are committed, and some of their inputs are done again. Raises what `Worker` raises,
    and NothingWorks.
    """
    on_result = _giving_up(on_result, workers=1)
    worker = worker_of(settings, retry)
    try:
        with ThreadPoolExecutor(IN_FLIGHT, "shard") as pool:
            running: set[Future[ShardResult]] = set()
            for shard in shards:
                if stop is not None and stop():
                    break
                running.add(pool.submit(attempt, worker.process, shard))
                if len(running) == IN_FLIGHT:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    _report(ended, on_result)
            _report(running, on_result)
    finally:
        worker.close()


def run(
    settings: SegmentSettings,
    shards: Sequence[str],
    *,
    workers: int,
    least: int | None = None,
    on_result: OnResult,
    stop: Stop | None = None,
    retry: Retry | None = None,
    address: str | None = None,
    debug: bool = False,
) -> None:
    """Segment shards on Ray with a pool of `workers` workers; see `run_local` for `on_result` and `retry`.

    With `least` it begins with as many of them as there is room for, but that many, and grows as room comes.
    Joins the cluster at `address` (or RAY_ADDRESS), else starts Ray on this machine and ends it again. Once
    `stop` says so, no shard is begun, and this returns when those in work are committed; for how long to wait
    is the caller's business: an exception of its own takes the pool down at once. A worker that cannot start
    (its weights changed, its GPU is broken) is the error of each shard it is given. Raises ClusterTooSmall
    before any worker is started, and NothingWorks.
    """
    if not shards:
        return
    on_result = _giving_up(on_result, workers)
    store = Store.open(settings.output, settings.output_options)
    run_id = secrets.token_hex(8)
    workers = min(workers, len(shards))  # more would have nothing to do
    least = min(least or workers, workers)
    with cluster(settings, least, address=address, debug=debug), _telling(RunFlag(store, run_id), stop):
        results = _results(settings, shards, _pool(settings, workers, least), run_id, retry)
        seen: set[str] = set()
        idle: set[str] = set()
        metrics = RunMetrics(settings.output, shards, workers)
        try:
            for result in results:
                if result.stopped:
                    idle.add(result.worker)
                    # Of a pool that may grow, those that ever gave a result are all that are known.
                    if len(idle) == workers or (len(idle) >= least < workers and seen <= idle):
                        break
                    continue
                seen.add(result.worker)
                metrics.add(result)
                on_result(result)
        finally:
            metrics.end()
            results.close()
            _join_readers()
            clear_progress(store, filter(None, seen))


@contextmanager
def _telling(flag: RunFlag, stop: Stop | None) -> Iterator[None]:
    """While the block runs, put the flag as soon as `stop` says so; take it away at the end."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(STOP_LOOK):
            if stop is not None and stop():
                with suppress(StoreError):
                    flag.put()
                    return

    watcher = threading.Thread(target=look, name="stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(JOIN_SECONDS)
        flag.clear()


class ShardWorker(Protocol):
    """What takes one shard from its start to its commit, for two shards at a time."""

    def process(self, shard: str) -> ShardResult:
        """Do a shard; raises when it could not be committed."""
        ...

    def close(self) -> None:
        """End; no shard may be in work."""
        ...


def worker_of(settings: SegmentSettings, retry: Retry | None) -> ShardWorker:
    """The worker that does these settings' shards. Raises what it raises."""
    if settings.stitching:
        from pipeline.tiled.worker import StitchWorker

        return StitchWorker(settings, again=retry is not None)
    from pipeline.worker import Worker

    return Worker(settings, retry)


def attempt(process: Callable[[str], ShardResult], shard: str) -> ShardResult:
    """Process a shard; an error becomes its result, so that it costs this shard and not the run."""
    try:
        return process(shard)
    except Exception as error:
        logging.getLogger(__name__).debug("shard %s", shard, exc_info=True)
        return ShardResult(shard=shard, error=f"{type(error).__name__}: {error}")


class ShardActor:
    """One worker as an actor of Ray Data's pool: a row with a shard's id in, a row with its report out.

    Neither may raise: to Ray Data an actor that does not start, or a row that fails, is the end of the run.
    """

    def __init__(self, settings: SegmentSettings, run: str, retry: Retry | None = None) -> None:
        self._settings, self._retry = settings, retry
        self._flag = RunFlag(Store.open(settings.output, settings.output_options), run)
        self._id = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._in_work = 0
        self._worker: ShardWorker | None = None
        with suppress(Exception):  # tried again, and reported, with the first shard
            self._ready()

    def __call__(self, row: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Called for two rows at a time, in two threads."""
        return {"result": [self._process(str(row["item"][0])).to_json()]}

    def _process(self, shard: str) -> ShardResult:
        # Counted before the flag is looked at: else the other thread could report this worker as idle.
        self._count(1)
        try:
            if not self._flag.is_set():
                return attempt(lambda shard: self._ready().process(shard), shard)
        finally:
            self._count(-1)
        with self._changed:
            self._changed.wait_for(lambda: not self._in_work)
        return ShardResult(shard=shard, worker=self._id, stopped=True)

    def _count(self, shards: int) -> None:
        with self._changed:
            self._in_work += shards
            self._changed.notify_all()

    def _ready(self) -> ShardWorker:
        with self._lock:
            self._worker = self._worker or worker_of(self._settings, self._retry)
            return self._worker


def _giving_up(on_result: OnResult, workers: int) -> OnResult:
    """Pass results on, and raise NothingWorks once none of many in a row was committed."""
    limit = max(FAILURES, FAILURES * workers // 2)
    failures = 0

    def watch(result: ShardResult) -> None:
        nonlocal failures
        failures = 0 if result.error is None else failures + 1
        on_result(result)
        if failures == limit:
            raise NothingWorks(f"{failures} shards in a row failed, the last with {result.error}")

    return watch


def _results(
    settings: SegmentSettings, shards: Sequence[str], pool: ActorPoolStrategy, run: str, retry: Retry | None
) -> Generator[ShardResult, None, None]:
    _quiet_data()
    more: dict[str, Any] = {}
    if settings.accelerator is not None:
        more["accelerator_type"] = settings.accelerator
    if settings.process_env:
        more["runtime_env"] = {"env_vars": settings.process_env}
    reports = _blocks(shards).map_batches(
        ShardActor,
        fn_constructor_kwargs={"settings": settings, "run": run, "retry": retry},
        batch_size=1,
        compute=pool,
        num_cpus=settings.cpus,
        num_gpus=settings.gpus_held or None,
        memory=settings.memory or None,
        **more,
    )
    # No prefetch: it would hold a report back until the next one is there.
    for batch in reports.iter_batches(batch_size=None, prefetch_batches=0):
        for report in batch["result"]:
            yield ShardResult.from_json(str(report))


def _join_readers() -> None:
    """Wait for Ray Data's threads: one that asks Ray for anything after its shutdown ends the process."""
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threading.enumerate():
        if thread.name == READER:
            thread.join(max(0.0, deadline - time.monotonic()))


def _blocks(shards: Sequence[str]) -> Dataset:
    """A shard a block: what an actor is handed at a time."""
    import ray.data

    if len(shards) <= BLOCKS:  # a task costs a process of its own that has Ray to import, some at a time
        return ray.data.from_items(list(shards), override_num_blocks=len(shards))
    return ray.data.from_items(list(shards)).repartition(target_num_rows_per_block=1)


def _pool(settings: SegmentSettings, workers: int, least: int) -> ActorPoolStrategy:
    """A pool of a fixed size, or one that grows while its workers have all they can take."""
    from ray.data import ActorPoolStrategy, DataContext

    size: dict[str, int] = {"size": workers}
    if least < workers:
        size = {
            "min_size": least,
            "max_size": workers,
            "initial_size": min(workers, max(least, room(settings))),
        }
        # Tasks in flight for each that an actor can work at: Ray's own mark, 1.75, is out of their reach.
        DataContext.get_current().autoscaling_config.actor_pool_util_upscaling_threshold = 1.1
    return ActorPoolStrategy(
        **size,
        max_tasks_in_flight_per_actor=IN_FLIGHT + 1,
        max_concurrent_calls_per_actor=IN_FLIGHT,
        enable_true_multi_threading=True,
    )


def _quiet_data() -> None:
    """Progress is ours to show; Ray Data keeps its own log in the session's folder."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _report(ended: set[Future[ShardResult]], on_result: OnResult) -> None:
    for future in ended:
        on_result(future.result())
