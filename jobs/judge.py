"""Measuring a model as it grows, on images that it does not learn from; the best is kept."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from condinst import CondInst, parallel, weights
from condinst.evaluate import Metrics, evaluate
from condinst.training import Training
from jobs import structured
from jobs.exam import Exam
from jobs.figures import print_metrics
from jobs.train_files import BEST_KEY, BEST_WEIGHTS, LAST_WEIGHTS, MEASURED_KEY
from jobs.train_spec import TrainSpec
from pipeline.storage import Store

Measured = dict[str, float]
"""One measurement: step, seconds, ap, ap50, ap75."""


class Judge:
    """Measures the averaged model; each process looks at its share of the images, the first one counts.

    `best.safetensors`, `best.json`, `last.safetensors` and `measured.jsonl` are the first process's.
    """

    def __init__(
        self,
        spec: TrainSpec,
        store: Store,
        exam: Exam,
        lineage: Mapping[str, str],
        console: Console,
    ) -> None:
        self._spec, self._store, self._console, self._lineage = spec, store, console, lineage
        self.exam = exam
        self.measured: list[Measured] = []
        self._before, self._began = 0.0, time.monotonic()

    def resume(self, measured: Sequence[Measured], seconds: float) -> None:
        """Go on from what was measured until a checkpoint."""
        self.measured, self._before = list(measured), seconds

    @property
    def seconds(self) -> float:
        """Of training until now, in all runs."""
        return round(self._before + time.monotonic() - self._began, 1)

    def is_due(self, training: Training) -> bool:
        """Whether a step is to be measured, and was not yet."""
        before = self.measured[-1]["step"] if self.measured else 0
        return training.config.measure_at(training.step) and before < training.step

    def measure(self, training: Training) -> CondInst:
        """Measure the averaged model of a step and put its weights; returns it."""
        model = training.averaged()
        metrics = self._metrics(model)
        if metrics is None:
            return model
        at = {"step": training.step, "seconds": self.seconds}
        best = max((m["ap"] for m in self.measured), default=float("-inf"))
        self.measured.append({**at, "ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75})
        self._console.print(
            f"step {training.step:,}: {metrics.kind} AP {metrics.ap:.4f}, AP50 {metrics.ap50:.4f}",
            highlight=False,
        )
        structured.event("measured", kind=metrics.kind, **self.measured[-1])
        data = self._file(model, training.step, metrics)
        self._store.put(LAST_WEIGHTS, data)
        if metrics.ap > best or len(self.measured) == 1:
            self._store.put(BEST_WEIGHTS, data)
            said = {**at, "images": len(self.exam.images), **metrics.summary()}
            self._store.put(BEST_KEY, json.dumps(said, indent=2).encode())
            print_metrics([metrics], self.exam.truth, self._console)
        lines = "".join(json.dumps(line) + "\n" for line in self.measured)
        self._store.put(MEASURED_KEY, lines.encode())
        return model

    def _metrics(self, model: CondInst) -> Metrics | None:
        """What COCO says of the model's results on all images; None in all processes but the first."""
        most = max(self._spec.max_dets, model.config.detect.max_instances)
        detect = model.config.detect.model_copy(update={"max_instances": most})
        found = [_plain(result) for result in self.exam.results(model, detect)]
        parts = parallel.gather_bytes(json.dumps(found).encode(), model.device)
        if parallel.rank() > 0:
            return None
        results = [result for part in parts for result in json.loads(part)]
        return evaluate(self.exam.truth, results, self.exam.kind, self._spec.max_dets)

    def _file(self, model: CondInst, step: int, metrics: Metrics) -> bytes:
        """The model as a weights file that says where it comes from."""
        notes = {**self._lineage, "step": str(step), "ap": f"{metrics.ap:.4f}"}
        with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
            path = Path(folder) / "weights.safetensors"
            weights.save(model, path, notes=notes)
            return path.read_bytes()


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """A result as JSON values: its RLE as text."""
    mask = result["segmentation"]
    return {**result, "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()}}
