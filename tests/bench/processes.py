"""Memory of a job's processes, sampled from outside while it runs."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import psutil


@dataclass
class Memory:
    """The most that each kind of process held, while a driver and what it started ran."""

    driver: psutil.Process
    every: float = 0.2
    """Seconds between two looks."""
    most: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        """End sampling; MiB by kind."""
        self._ended.set()
        self._thread.join()
        return {kind: most >> 20 for kind, most in sorted(self.most.items())}

    def _watch(self) -> None:
        while not self._ended.wait(self.every):
            try:
                processes = [self.driver, *self.driver.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        try:
            kind = self._kind(process)
            self.most[kind] = max(self.most[kind], process.memory_info().rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it ended meanwhile

    def _kind(self, process: psutil.Process) -> str:
        if process == self.driver:
            return "driver"
        command = " ".join(process.cmdline())
        if "ShardActor" in command or "MapWorker" in command:
            return "worker"
        return "header_reader" if "childread" in command else "ray_and_others"
