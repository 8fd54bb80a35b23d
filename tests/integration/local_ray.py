"""A Ray of a test's own on this machine: how it starts, and its processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.cluster import OBJECT_STORE_BYTES, STARTS, _init

# Two that start at a time choose the same ports, and tests run in several processes.
_LOCK = Path(tempfile.gettempdir()) / f"condinst-tests-{os.getuid()}.lock"


def start_ray(cpus: int, **options: Any) -> None:
    """Start one, as often as a run would try it, while no other test starts one."""
    own = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _init({**own, "num_cpus": cpus, **options}, STARTS)


def ray_processes(folder: str, kind: str) -> list[int]:
    """Ids of the processes of this kind, as their titles have it, of the Ray whose RAY_TMPDIR this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            ours = f"RAY_TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
            if ours and kind.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found
