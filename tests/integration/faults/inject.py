"""What runs inside a job's processes: it strikes as a shard comes to a step.

Ray calls `install` as each worker process starts (`worker_process_setup_hook`), the driver calls it itself.
Occurrences are counted over all processes of a schedule, by files that can be created only once.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.steps import Step, listen

PLAN = "FAULTS_PLAN"
"""Environment variable: the file that says what is to happen."""
DRIVER = "FAULTS_DRIVER"
"""Environment variable: the driver's process id."""

Action = Literal[
    "kill worker",  # SIGKILL for the process that comes to the step
    "kill driver",  # SIGKILL for its driver, while the step is held
    "stop driver",  # SIGTERM for its driver
    "freeze",  # SIGSTOP for the process: to the others it is cut off
    "tell",  # the harness is told, and acts
]


@dataclass(frozen=True)
class Strike:
    """Do something as step `step` is reached for the `nth` time, anywhere."""

    name: str
    action: Action
    step: Step
    nth: int

    def __str__(self) -> str:
        return f"{self.action} at {self.step} {self.nth}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def install() -> None:
    """Listen to this process's steps, and plant the bug that is asked for."""
    plan = json.loads(Path(os.environ[PLAN]).read_text())
    if plan["plant"]:
        from tests.integration.faults.plants import plant

        plant(plan["plant"])
    for fields in plan["strikes"]:
        listen(_Striker(Strike(**fields), Path(plan["marks"])))


def fired(marks: Path, strike: Strike) -> dict[str, Any] | None:
    """Who was struck, where, when; None while nobody was."""
    try:
        found: dict[str, Any] = json.loads((marks / f"{strike.name}.fired").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


class _Striker:
    def __init__(self, strike: Strike, marks: Path) -> None:
        self._strike, self._marks = strike, marks
        self._lock = threading.Lock()
        self._seen = 0

    def __call__(self, step: Step, shard: str) -> None:
        if step == self._strike.step and self._number() == self._strike.nth:
            self._tell(shard)
            self._act()

    def _number(self) -> int:
        """How often the step was reached anywhere, this time included; no two get the same number."""
        with self._lock:
            while self._seen <= self._strike.nth:
                self._seen += 1
                try:
                    (self._marks / f"{self._strike.name}.{self._seen}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                break
            return self._seen

    def _tell(self, shard: str) -> None:
        told = {"pid": os.getpid(), "driver": int(os.environ[DRIVER]), "shard": shard, "time": time.time()}
        told["node"] = _node()
        partial = self._marks / f"{self._strike.name}.part"
        partial.write_text(json.dumps(told))
        partial.rename(self._marks / f"{self._strike.name}.fired")

    def _act(self) -> None:
        action, me, driver = self._strike.action, os.getpid(), int(os.environ[DRIVER])
        if action == "kill worker":
            os.kill(me, signal.SIGKILL)
        elif action == "kill driver":
            os.kill(driver, signal.SIGKILL)
            time.sleep(5)  # the step is not left before Ray has ended its job's processes
        elif action == "stop driver":
            os.kill(driver, signal.SIGTERM)
        elif action == "freeze":
            os.kill(me, signal.SIGSTOP)


def _node() -> str | None:
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
