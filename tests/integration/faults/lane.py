"""Where jobs run: a Ray cluster of real raylets on this machine, nodes that come and go, and drivers."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from tests.integration.faults import drive

NODE_CPUS = 2
"""CPUs that each node says it has; two nodes stand at rest."""
STORE_BYTES = 80 * 2**20
STARTS = 6
"""Ray gives a node half a minute to start, which on a busy machine may not do."""
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "OMP_NUM_THREADS": "1",
    # Workers started for nobody in particular would not have the job's environment, and never be used.
    "RAY_prestart_worker_first_driver": "0",
    # Nor those for work that it sees coming: a job runs actors, and each has a process of its own.
    "RAY_enable_worker_prestart": "0",
    # Notice a dead node within some seconds instead of half a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_initial_delay_ms": "1000",
    # Ray would let every other process on this machine go first.
    "RAY_worker_niceness": "0",
    "PYTHONPATH": str(Path(__file__).parents[3]),
}


class Lane:
    """One cluster and the drivers that join it."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._processes = multiprocessing.get_context("forkserver")
        # Drivers are forked from a process that has the imports behind it: seconds for each of them.
        self._processes.set_forkserver_preload([drive.__name__])

    def start(self, spec: Path, environment: Mapping[str, str]) -> ForkServerProcess:
        """A driver as a process of its own; its messages go to a file beside the spec."""
        arguments = (str(spec), self._cluster.address, dict(environment))
        process = self._processes.Process(target=drive.begin, args=arguments)
        process.start()
        return process

    def remove(self, node_id: str | None, spare: bool) -> None:
        """Kill a node's processes all at once: the one of that id, if it is not the drivers' own."""
        if spare:
            self._add()
        self._cluster.remove_node(self._node(node_id), allow_graceful=False)

    def preempt(self, node_id: str | None, grace: float) -> list[int]:
        """SIGTERM for a node, as a machine that is taken back gets it.

        Returns the process ids of the node that are still there after `grace` seconds; then they are killed.
        """
        node = self._node(node_id)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        processes = [raylet, *raylet.children(recursive=True)]
        raylet.terminate()
        _, left = psutil.wait_procs(processes, timeout=grace)
        self._cluster.remove_node(node, allow_graceful=False)
        return [process.pid for process in left if process.is_running()]

    def _node(self, node_id: str | None) -> Any:
        return min(self._cluster.worker_nodes, key=lambda node: node.node_id != node_id)

    def restore(self) -> None:
        """Bring the cluster back to two nodes."""
        while len(self._cluster.worker_nodes) > 1:
            self._cluster.remove_node(next(iter(self._cluster.worker_nodes)), allow_graceful=False)
        if not self._cluster.worker_nodes:
            self._add()

    def _add(self) -> None:
        _patiently(lambda: self._cluster.add_node(num_cpus=NODE_CPUS, object_store_memory=STORE_BYTES))


@contextmanager
def lane(environment: Mapping[str, str]) -> Iterator[Lane]:
    """A cluster of two nodes, in a folder of its own; gone afterwards."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ.update({**_SETTINGS, **environment, "RAY_TMPDIR": folder})
    from ray.cluster_utils import Cluster

    options = {"num_cpus": NODE_CPUS, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=options))
    try:
        it = Lane(cluster)
        it.restore()
        yield it
    finally:
        with suppress(Exception):
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a node, again where Ray has lost its patience; SIGTERM stays the end of this process."""
    for trial in range(STARTS):
        try:
            return start()
        except Exception:  # no type of its own tells that the half minute is over
            if trial == STARTS - 1:
                raise
        finally:
            # Each node that starts would have half a minute to drain after SIGTERM.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise AssertionError("unreachable")


def end(process: ForkServerProcess) -> None:
    """Kill a driver that is still there, stopped or not."""
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
