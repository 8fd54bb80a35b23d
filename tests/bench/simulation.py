"""A job's finish on many workers, replayed from what a few measured: shard by shard, deaths among it."""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """What a real run showed."""

    shard_seconds: np.ndarray
    """(n,) time a worker needed for each shard, its neighbour in flight overlapping; stragglers too."""
    start_seconds: float
    """From the command to a worker's first batch."""
    end_seconds: float
    """From the last batch to the command's end."""


@dataclass(frozen=True)
class Cluster:
    """What is supposed of the cluster."""

    workers: int
    dispatch_seconds: float = 0.013
    """The driver's own time a shard; it hands out one after another. Ray Data's, measured (`DESIGN.md`)."""
    deaths_per_worker_hour: float = 0.0
    restart_seconds: float = 60.0
    """Until a worker that died, or the one in its place, works again."""


@dataclass(frozen=True)
class Forecast:
    """How a simulated job went."""

    seconds: float
    worker_hours: float
    deaths: int
    repeated_shards: int


def simulate(measured: Measured, shards: int, cluster: Cluster, seed: int = 0) -> Forecast:
    """Give each of `shards` to the worker that is free first; a shard's time is one of the measured ones.

    A worker dies at random moments; the shard it had is done again by whoever is free.
    """
    random = np.random.default_rng(seed)
    free = [(measured.start_seconds, number) for number in range(cluster.workers)]
    heapq.heapify(free)
    driver = finish = 0.0
    waiting, deaths = shards, 0
    rate = cluster.deaths_per_worker_hour / 3600
    while waiting:
        at, worker = heapq.heappop(free)
        driver = max(driver + cluster.dispatch_seconds, at)
        needed = float(random.choice(measured.shard_seconds))
        death = random.exponential(1 / rate) if rate else np.inf
        if death < needed:
            deaths += 1
            heapq.heappush(free, (driver + death + cluster.restart_seconds, worker))
            continue
        waiting -= 1
        finish = max(finish, driver + needed)
        heapq.heappush(free, (driver + needed, worker))
    total = finish + measured.end_seconds
    return Forecast(total, total * cluster.workers / 3600, deaths, deaths)
