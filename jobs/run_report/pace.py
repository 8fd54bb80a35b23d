"""How a run went, from its commit records: images a second over time, stages, workers, stragglers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.tally import Tally
from pipeline.commit import Commit

BINS = 60
"""Stretches of time that the run is divided into."""
STRAGGLERS = 8
_SLOW = 1.5
"""Times the median that a shard takes for an image to be called a straggler."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Straggler:
    """A shard that took long."""

    shard: str
    worker: str
    seconds: float
    times: float
    """Its seconds an image over the median's."""
    stage: str
    """Where most of its time went."""


@dataclass(frozen=True)
class WorkerPace:
    """One worker."""

    worker: str
    images: int
    rate: float
    """Images a second between its first batch and its last."""
    busy: float
    """Share of that time inside the model."""


@dataclass(frozen=True)
class Pace:
    """The run in time. Seconds count from its first batch."""

    began: float
    """Unix time of the first batch."""
    seconds: float
    rates: Floats
    """(`BINS`,) images a second in each stretch."""
    tail: float
    """Share of the time that the last twentieth of the images took."""
    stages: dict[str, float]
    """Seconds of all workers by stage, the longest first; stages overlap."""
    workers: list[WorkerPace]
    """The slowest first."""
    stragglers: list[Straggler]


def pace_of(commits: Sequence[Commit]) -> Pace | None:
    """The pace of the shards that ran batches; None when none did."""
    timed = [commit for commit in commits if commit.work.first is not None and commit.work.last is not None]
    if not timed:
        return None
    first = np.array([commit.work.first for commit in timed], np.float64)
    last = np.array([commit.work.last for commit in timed], np.float64)
    images = np.array([_images(commit) for commit in timed], np.float64)
    began, ended = float(first.min()), float(last.max())
    edges = np.linspace(began, max(ended, began + 1e-3), BINS + 1)
    done = _done(edges, first, last, images)
    tally = Tally.of(timed)
    return Pace(
        began=began,
        seconds=ended - began,
        rates=np.diff(done) / np.diff(edges),
        tail=float(1 - np.interp(0.95 * done[-1], done, np.linspace(0, 1, BINS + 1))),
        stages=dict(sorted(tally.seconds.items(), key=lambda stage: -stage[1])),
        workers=_workers(tally),
        stragglers=_stragglers(timed, last - first, images),
    )


def _images(commit: Commit) -> int:
    work = commit.work
    return sum(commit.counts.values()) if work.images is None else work.images


def _done(edges: Floats, first: Floats, last: Floats, images: Floats) -> Floats:
    """Images done by each moment, a shard's spread evenly over its time."""
    length = np.maximum(last - first, 1e-6)
    return np.array([float((images * np.clip((edge - first) / length, 0, 1)).sum()) for edge in edges])


def _workers(tally: Tally) -> list[WorkerPace]:
    workers = [
        WorkerPace(name, busy.images, busy.images / max(busy.last - busy.first, 1e-3), busy.share)
        for name, busy in tally.workers.items()
    ]
    return sorted(workers, key=lambda worker: worker.rate)


def _stragglers(commits: Sequence[Commit], seconds: Floats, images: Floats) -> list[Straggler]:
    each = seconds / np.maximum(images, 1)
    median = float(np.median(each))
    slowest = np.argsort(-each, kind="stable")[:STRAGGLERS]
    return [
        Straggler(
            commits[at].shard,
            commits[at].work.worker,
            float(seconds[at]),
            float(each[at] / median),
            max(commits[at].work.seconds, key=lambda stage: commits[at].work.seconds[stage], default=""),
        )
        for at in slowest
        if median > 0 and each[at] > _SLOW * median
    ]
