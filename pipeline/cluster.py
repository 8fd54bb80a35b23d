"""The Ray that a pool of workers runs on: joined, or started on this machine for one run; and its room."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

from pipeline.nouns import many

PATIENCE = 15.0
"""Seconds that a cluster gets to report as free what an earlier run has just given back."""

NODE_PATIENCE = "CONDINST_NODE_PATIENCE"
"""Environment variable: seconds that a cluster with an autoscaler gets to bring nodes for the workers."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's shared memory on this machine; only shard ids and reports pass through it."""


class Needs(Protocol):
    """What one worker takes."""

    @property
    def cpus(self) -> int:
        """Processor cores."""
        ...

    @property
    def gpus_held(self) -> float:
        """GPUs, or a share of one."""
        ...

    @property
    def memory(self) -> int:
        """Bytes that Ray reserves; 0 for none."""
        ...

    @property
    def accelerator(self) -> str | None:
        """Type of the GPU, as Ray names it; None for any."""
        ...


STARTS = 3
"""Times that Ray is started here: it gives its processes half a minute, which a busy machine may not do."""


class ClusterTooSmall(Exception):
    """The workers asked for do not fit; the message says what is missing."""


class NoCluster(Exception):
    """Ray does not start here, or the cluster to join does not answer; the message says what to do."""


@contextmanager
def cluster(
    settings: Needs, workers: int, *, address: str | None = None, debug: bool = False, spare: int = 1
) -> Iterator[None]:
    """A Ray cluster with room for the workers and `spare` CPUs beside them; what this starts, this ends.

    Inside, `run` uses it, so several runs share one. Raises ClusterTooSmall, NoCluster.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        _connect(address or os.environ.get("RAY_ADDRESS") or "local", settings, workers, debug)
    try:
        _require(settings, workers, spare)
        yield
    finally:
        if started:
            ray.shutdown()


def shortfall(
    nodes: Sequence[Mapping[str, float]],
    free: Mapping[str, float],
    workers: int,
    cpus: int,
    gpus: float,
    memory: int = 0,
    accelerator: str | None = None,
    spare: int = 1,
) -> str | None:
    """Why a pool does not fit, or None. `nodes` are each node's resources, `free` what the cluster has left.

    Ray Data deadlocks in silence without a CPU to spare beside its pool, so one is asked for.
    """
    fitting = sum(_fits(node, cpus, gpus, memory, accelerator) for node in nodes)
    if fitting < workers:
        each = f"{cpus} CPU" + (f" and {gpus:g} {accelerator or ''} GPU".replace("  ", " ") if gpus else "")
        each += f" and {memory / 2**30:.1f} GiB" if memory else ""
        return f"{many(workers, 'worker')} of {each} do not fit: the cluster's nodes hold {fitting}"
    pool = many(workers, "worker")
    needed, has = workers * cpus + spare, free.get("CPU", 0.0)
    if has < needed:
        beside = " (one beside the pool)" if spare else ""
        return f"{pool} of {cpus} CPU need {needed} free CPUs{beside}, {has:g} are free"
    if gpus and free.get("GPU", 0.0) < workers * gpus:
        return f"{pool} of {gpus:g} GPU need {workers * gpus:g}, {free.get('GPU', 0.0):g} are free"
    if free.get("memory", 0.0) < workers * memory:
        return f"{pool} need {workers * memory:,} bytes, {free.get('memory', 0.0):,.0f} are free"
    return None


def crowding(workers: int, cpus: int, *, key: str = "workers.count") -> str | None:
    """What to know of a pool for which Ray is started on this machine, with fewer cores; None elsewhere.

    Ray is told of as many cores as the pool asks for, so it runs. `key` is what the spec has their number by.
    """
    cores = os.cpu_count() or 1
    here = not os.environ.get("RAY_ADDRESS") and not _initialized()
    if not here or workers * cpus <= cores:
        return None
    fitting = cores // cpus
    wanted = {key: max(1, fitting)} if workers > 1 else {}
    wanted |= {} if fitting else {"workers.cpus": cores}
    remedy = " and ".join(f"{name}={value}" for name, value in wanted.items())
    return (
        f"{many(workers, 'worker')} of {many(cpus, 'CPU')} on {many(cores, 'core')}: "
        f"{'they' if workers > 1 else 'its threads'} will wait for one another; set {remedy}"
    )


def _initialized() -> bool:
    """Whether this process is in a cluster; one that has not loaded Ray is not."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def room(settings: Needs) -> int:
    """How many workers the cluster that this process is in has room for now, beside the CPU that is kept."""
    import ray

    free = ray.available_resources()  # type: ignore[no-untyped-call]
    by_cpu = int((free.get("CPU", 0.0) - 1) // settings.cpus)
    return min(by_cpu, sum(_fits_one(settings, node["Resources"]) for node in _nodes()))


def _connect(address: str, settings: Needs, workers: int, debug: bool) -> None:
    # What a job is made of is told to nobody; where somebody wants Ray to, an actor of its own does.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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
        _init(options, STARTS if address == "local" else 1)


def _init(options: Mapping[str, Any], tries: int) -> None:
    import ray

    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # no type of its own tells that the half minute is over
            if not left:
                raise NoCluster(_without(options["address"], error)) from error


def _without(address: str, error: Exception) -> str:
    """What to do where Ray is not to be had."""
    import ray

    said = " ".join(str(error).split())
    if address == "local":
        return (
            f"Ray did not start on this machine in {STARTS} tries: {said}\n"
            "Try again when less is at work here; --local runs a job without Ray"
        )
    return (
        f"the Ray cluster at {address} cannot be joined: {said}\n"
        f"Check the address, the token (RAY_AUTH_MODE, RAY_AUTH_TOKEN), and that its Ray is {ray.__version__}"
    )


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


def _require(settings: Needs, workers: int, spare: int) -> None:
    """Raise ClusterTooSmall unless the pool fits, now or once an earlier pool is gone or nodes have come."""
    import ray

    def missing(free: Mapping[str, float]) -> str | None:
        nodes = [node["Resources"] for node in _nodes()]
        needs = (settings.cpus, settings.gpus_held, settings.memory, settings.accelerator)
        return shortfall(nodes, free, workers, *needs, spare)

    problem = missing(ray.cluster_resources())  # type: ignore[no-untyped-call]
    if problem is not None and (patience := float(os.environ.get(NODE_PATIENCE) or 0)):
        _bring_nodes(settings, workers, patience)
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


def _bring_nodes(settings: Needs, workers: int, patience: float) -> None:
    """Have an autoscaler bring nodes for the workers, and wait until they are there, or patience ends.

    Asks by a placement group, which is gone with this process, whatever becomes of it.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    bundle: dict[str, float] = {"CPU": settings.cpus}
    bundle |= {"GPU": settings.gpus_held} if settings.gpus_held else {}
    bundle |= {"memory": settings.memory} if settings.memory else {}
    bundle |= {f"accelerator_type:{settings.accelerator}": 0.001} if settings.accelerator else {}
    group = placement_group([*([bundle] * workers), {"CPU": 1}])
    try:
        group.wait(patience)
    finally:
        remove_placement_group(group)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fits_one(settings: Needs, node: Mapping[str, float]) -> int:
    return _fits(node, settings.cpus, settings.gpus_held, settings.memory, settings.accelerator)


def _fits(
    node: Mapping[str, float], cpus: int, gpus: float, memory: int = 0, accelerator: str | None = None
) -> int:
    """Workers that a node has room for when nothing else runs on it."""
    if accelerator is not None and f"accelerator_type:{accelerator}" not in node:
        return 0
    fitting = int(node.get("CPU", 0.0) // cpus)
    if gpus:
        fitting = min(fitting, int(node.get("GPU", 0.0) / gpus + 1e-6))
    if memory:
        fitting = min(fitting, int(node.get("memory", 0.0) // memory))
    return fitting
