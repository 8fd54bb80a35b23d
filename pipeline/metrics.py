"""What a run is doing, for Prometheus: Ray's agent on the driver's node hands it out with its own metrics.

The driver alone counts, shard by shard, so numbers add up to the run's whatever workers come and go. Ray puts
`ray_` before the names and `_total` behind those of counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.results import ShardResult

STATES = ("pending", "done", "failed")


class RunMetrics:
    """The metrics of one run in a process that is connected to Ray."""

    def __init__(self, output: str, shards: Sequence[str], workers: int) -> None:
        """`output` is the job's URI: the label that tells jobs apart."""
        from ray.util.metrics import Counter, Gauge

        def counter(name: str, words: str, *labels: str) -> Any:
            made = Counter(f"condinst_{name}", words, tag_keys=("output", *labels))
            return made.set_default_tags({"output": output})

        self._images = counter("images", "Inputs accounted for, by status.", "status")
        self._instances = counter("instances", "Instances found, by class.", "category")
        self._bytes = counter("input_bytes", "Bytes of input read.")
        self._stages = counter("stage_seconds", "Seconds of worker threads, by stage.", "stage")
        self._model = counter("model_seconds", "Seconds that a worker's model computed.", "worker")
        self._shards = Gauge("condinst_shards", "Shards of this run, by state.", tag_keys=("output", "state"))
        self._workers = Gauge("condinst_workers", "Workers asked for.", tag_keys=("output",))
        self._output, self._all = output, len(shards)
        self._states = dict.fromkeys(STATES, 0) | {"pending": len(shards)}
        self._asked = workers
        self._show()

    def add(self, result: ShardResult) -> None:
        """Count a shard's end."""
        self._states["failed" if result.error is not None else "done"] += 1
        self._states["pending"] = self._all - self._states["done"] - self._states["failed"]
        self._show()
        for status, number in result.counts.items():
            self._count(self._images, number, status=status)
        for category, number in result.classes.items():
            self._count(self._instances, number, category=category)
        for stage, spent in result.seconds.items():
            self._count(self._stages, spent, stage=stage)
        self._count(self._bytes, result.bytes)
        self._count(self._model, result.busy, worker=result.worker)

    def end(self) -> None:
        """Nothing is pending any more, nobody works."""
        self._states["pending"] = self._asked = 0
        self._show()

    def _count(self, counter: Any, value: float, **labels: str) -> None:
        if value > 0:
            counter.inc(value, labels)

    def _show(self) -> None:
        """Set every gauge: Ray's agent forgets those that are not set for a while."""
        self._workers.set(self._asked, {"output": self._output})
        for state, number in self._states.items():
            self._shards.set(number, {"output": self._output, "state": state})
