"""A Ray cluster of several nodes on this machine, each of processes of its own, with token authentication."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
START_SECONDS = 180
TRIES = 3
COMMON = ("--object-store-memory", str(80 * 2**20), "--disable-usage-stats", "--block")
HEAD_PORTS = ("--port", "--dashboard-port", "--metrics-export-port", "--ray-client-server-port")


@dataclass(frozen=True)
class Nodes:
    """A running cluster."""

    address: str
    """Of its job server."""
    environment: dict[str, str]
    """With what a client reaches it."""
    metrics: str
    """Where the head's node hands out its metrics."""


@contextmanager
def nodes(workers: int = 2, cpus: int = 2) -> Iterator[Nodes]:
    """A head without CPUs for work, and so many nodes that have some. Ends the processes it started."""
    folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        # One after another: two that start at a time on one machine choose the same ports.
        head, ports = _join(folder, environment, ["--head", "--num-cpus", "1"], *HEAD_PORTS)
        started.append(head)
        gcs, dashboard, metrics, *_ = ports
        for _ in range(workers):
            joined = ["--address", f"127.0.0.1:{gcs}", "--num-cpus", str(cpus)]
            started.append(_join(folder, environment, joined)[0])
        yield Nodes(f"http://127.0.0.1:{dashboard}", environment, f"http://127.0.0.1:{metrics}/metrics")
    finally:
        for process in started:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started, by their ids."""
    with_children = []
    if psutil.pid_exists(process.pid):
        parent = psutil.Process(process.pid)
        with_children = [*parent.children(recursive=True), parent]
    for one in with_children:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(20)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _join(
    folder: Path, environment: dict[str, str], arguments: list[str], *named: str
) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a node with free ports for these options and its agent; returns the ports too.

    Again, at others, where one was taken in between, or Ray's own half minute too short for a busy machine.
    """
    said = ""
    for number in range(TRIES):
        log = folder / f"start-{len(list(folder.glob('start-*')))}-{number}.log"
        # A node whose agent finds its port taken, by another cluster, takes no jobs.
        options = (*named, "--dashboard-agent-listen-port")
        ports = free_ports(len(options))
        chosen = [word for option, port in zip(options, ports, strict=True) for word in (option, str(port))]
        with log.open("wb") as out:
            command = [BIN / "ray", "start", *arguments, *chosen, *COMMON]
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        if _runs(process, log):
            return process, ports
        said = log.read_text()[-2000:]
        end(process)
    raise RuntimeError(f"a node did not start: {said}")


def _runs(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until a node says that it runs; whether it does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if "Ray runtime started." in log.read_text():
            return True
        time.sleep(0.2)
    return False
