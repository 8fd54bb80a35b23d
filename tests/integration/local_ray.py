"""A Ray of a test's own on this machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
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
