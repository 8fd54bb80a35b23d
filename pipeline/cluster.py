"""The Ray that a pool of workers runs on: joined, or started on this machine for one run; and its room."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from pipeline.settings import SegmentSettings

PATIENCE = 15.0
"""Seconds that a cluster gets to report as free what an earlier run has just given back."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's shared memory on this machine; only shard ids and reports pass through it."""


class ClusterTooSmall(Exception):
    """The workers asked for do not fit; the message says what is missing."""


@contextmanager
def cluster(
    settings: SegmentSettings, workers: int, *, address: str | None = None, debug: bool = False
) -> Iterator[None]:
    """A Ray cluster with room for the workers; what this starts, this ends.

    Inside, `run` uses it, so several runs share one. Raises ClusterTooSmall.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        _connect(address or os.environ.get("RAY_ADDRESS") or "local", settings, workers, debug)
    try:
        _require(settings, workers)
        yield
    finally:
        if started:
            ray.shutdown()


def shortfall(
    nodes: Sequence[Mapping[str, float]], free: Mapping[str, float], workers: int, cpus: int, gpus: float
) -> str | None:
    """Why a pool does not fit, or None. `nodes` are each node's resources, `free` what the cluster has left.

    Ray Data deadlocks in silence without a CPU to spare beside its pool, so one is asked for.
    """
    fitting = sum(_fits(node, cpus, gpus) for node in nodes)
    if fitting < workers:
        each = f"{cpus} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        return f"{workers} workers of {each} each do not fit: the cluster's nodes hold {fitting}"
    needed, has = workers * cpus + 1, free.get("CPU", 0.0)
    if has < needed:
        return (
            f"{workers} workers of {cpus} CPU need {needed} free CPUs (one beside the pool), {has:g} are free"
        )
    if gpus and free.get("GPU", 0.0) < workers * gpus:
        return f"{workers} workers of {gpus:g} GPU need {workers * gpus:g}, {free.get('GPU', 0.0):g} are free"
    return None


def _connect(address: str, settings: SegmentSettings, workers: int, debug: bool) -> None:
    import ray

    if not debug:
        # Ray's core tells stderr what only its developers can act on: that Ray Data's actors restart, say.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": debug,
        "logging_level": logging.INFO if debug else logging.ERROR,
    }
    if address == "local":
        # `local` never looks at the cluster file in RAY_TMPDIR, which may name a cluster that is gone.
        options |= {
            "num_cpus": max(os.cpu_count() or 1, workers * settings.cpus + 1),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    with nullcontext() if debug else _hushed():
        ray.init(**options)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what a library's C++ writes to stderr from the user, unless the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _require(settings: SegmentSettings, workers: int) -> None:
    """Raise ClusterTooSmall unless the pool fits, now or as soon as an earlier pool is gone."""
    import ray

    def missing(free: Mapping[str, float]) -> str | None:
        return shortfall(nodes, free, workers, settings.cpus, settings.gpus_held)

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    problem = missing(ray.cluster_resources())  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + PATIENCE
    while problem is None:
        busy = missing(ray.available_resources())  # type: ignore[no-untyped-call]
        if busy is None:
            return
        if time.monotonic() > deadline:
            problem = busy
        time.sleep(0.5)
    raise ClusterTooSmall(f"{problem}. Ask for fewer or smaller workers, or add nodes")


def _fits(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0.0) // cpus)
    return min(by_cpu, int(node.get("GPU", 0.0) / gpus + 1e-6)) if gpus else by_cpu
