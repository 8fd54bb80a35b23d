"""One run of a job's shards, on Ray or in this process: watched, stopped in good order, counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf

from rich.console import Console

from jobs import structured
from jobs.limits import Limits
from jobs.lookout import Lookout
from jobs.progress import SEGMENTING, Doing, RunProgress
from jobs.stopping import Stop, stop_on_signals
from jobs.tally import Account, Tally
from pipeline.engine import cluster, run, run_local
from pipeline.ledger import Folding, Ledger, Standing
from pipeline.results import ShardResult
from pipeline.retry import Retry
from pipeline.settings import SegmentSettings
from pipeline.storage import Store

TOLD = ("shard", "worker", "won", "counts", "instances", "bytes", "seconds", "busy")
"""What of a result its event says."""
REPEAT = "run the same command again to do the rest"


@dataclass
class Drive:
    """What is run, and how it is shown."""

    store: Store
    settings: SegmentSettings
    shards: Sequence[str]
    workers: int
    """Size of the pool on Ray, at most; 0 for this process."""
    tally: Tally
    """What is done; each result is counted in."""
    total: int
    """Images when all is done."""
    console: Console
    retry: Retry | None = None
    least: int | None = None
    """Workers to begin with, where the pool may grow."""
    limits: Limits = field(default_factory=Limits)
    count: Callable[[ShardResult], Account] = lambda result: result
    """What a result adds to the tally."""
    enough: Callable[[Tally, Stop], None] = lambda tally, stop: None
    """Asked after each result whether the run is to stop."""
    doing: Doing = SEGMENTING
    asked: Store | None = None
    """Where a request to cancel is left, if not in `store`."""
    began: float = field(default_factory=time.time)
    """When the run began: planning and starting Ray are part of its seconds."""
    standing: Standing | None = None
    """What the output held when the run began, where that was looked at; let go once it was used."""
    stages: dict[str, object] = field(default_factory=dict)
    """What earlier stages of the run did, by name."""

    def run(self) -> dict[str, object]:
        """Run the shards; returns what this run did.

        Raises Interrupted after a signal or a request to cancel, the reason of `enough`, ClusterTooSmall,
        NothingWorks.
        """
        before = self.tally.images
        watch = _Watch(self, RunProgress(self.total, self.tally, self.console, self.doing))
        stop = watch.stop
        pool = cluster(self.settings, self._least) if self.workers else nullcontext()
        limits = self.limits.watch(stop, self.workers * self.settings.gpus_held)
        # Ray takes SIGTERM over when it starts, so the signals are watched inside its cluster.
        with pool, stop_on_signals(stop), limits, watch.progress, watch.lookout, watch.folding:
            self._engine(watch)
        stop.raise_if_set()
        images = self.tally.images - before
        return {
            "shards": len(self.shards),
            "workers": max(1, self.workers),
            "engine": "ray" if self.workers else "local",
            "images": images,
            "seconds": round(time.time() - self.began, 3),
            "images_per_second": round(watch.rate(images), 3),
            **self.stages,
        }

    @property
    def _least(self) -> int:
        return min(self.least or self.workers, self.workers)

    def _engine(self, watch: _Watch) -> None:
        settings, shards, stop, retry = self.settings, self.shards, watch.stop, self.retry
        if self.workers:
            run(
                settings,
                shards,
                workers=self.workers,
                least=self._least,
                on_result=watch,
                stop=stop,
                retry=retry,
            )
        else:
            run_local(settings, shards, on_result=watch, stop=stop, retry=retry)


class _Watch:
    """Takes in each shard's result: counts it and shows it, or tells of its failure."""

    def __init__(self, drive: Drive, progress: RunProgress) -> None:
        self.progress = progress
        remedy = f"{(drive.asked or drive.store).uri} keeps what is committed: {REPEAT}"
        self.stop = Stop(remedy, abrupt=not drive.workers)
        self.lookout = Lookout(drive.store, self.stop, progress.warn, asked=drive.asked)
        self.folding = Folding(Ledger(drive.store), drive.standing)
        drive.standing = None  # the records of many shards are as many kilobytes
        self._drive = drive
        self._first, self._last = inf, 0.0

    def rate(self, images: int) -> float:
        """Images a second from the first batch of this run to the last; starting the workers is left out."""
        return images / (self._last - self._first) if self._last > self._first else 0.0

    def __call__(self, result: ShardResult) -> None:
        self.lookout.ended(result.shard)
        if result.error is not None:
            self.progress.warn(f"shard {result.shard} failed: {result.error}")
            structured.event("shard", logging.ERROR, shard=result.shard, error=result.error)
            return
        structured.event("shard", **{name: getattr(result, name) for name in TOLD})
        self.folding.committed()
        tally = self._drive.tally
        tally.add(self._drive.count(result))
        self._first, self._last = min(self._first, result.first or inf), max(self._last, result.last or 0.0)
        self.progress.update(result.first)
        self._drive.enough(tally, self.stop)
