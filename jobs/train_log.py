"""What a training says as it goes: a line every few seconds, every step's losses, curves and pictures."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from condinst import Instances, parallel
from jobs import structured
from jobs.board import Board
from jobs.curves import write_curves
from jobs.overlay import draw
from jobs.train_files import LOG_FOLDER, NOT_LOSSES, SUMMARY_KEY, read_log
from jobs.train_spec import TrainSpec
from pipeline.nouns import many
from pipeline.storage import Store

SECONDS_BETWEEN_LINES = 10.0


class TrainLog:
    """Collects each step's losses; prints their mean, images a second, the share of time without data."""

    def __init__(self, spec: TrainSpec, classes: Sequence[str], store: Store, console: Console) -> None:
        self._spec, self._store, self._console, self._classes = spec, store, console, classes
        self._steps: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []
        self._first = 0
        self.said: dict[str, object] = {"step": 0, "steps": spec.training.steps}
        """The last line, as data."""
        self._board: Board | None = None
        self._began = self._last = time.monotonic()

    def resume(self, step: int) -> None:
        """Go on after a step."""
        self._first = step
        self.said = {**self.said, "step": step}

    def step(self, step: int, terms: dict[str, float]) -> None:
        """Take in what `fit` tells of a step; only the first process does, which also puts it."""
        if parallel.rank() > 0:
            return
        said = {"step": step, **terms}
        self._steps.append(said)
        self._recent.append(said)
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES or step == self._spec.training.steps:
            self._print(step, now)
            self._last, self._recent = now, []

    def measured(
        self, measured: Mapping[str, float], examples: Iterable[tuple[NDArray[Any], Instances]]
    ) -> None:
        """Take in a measurement, and images with what the model found in them."""
        step = int(measured["step"])
        self._open().scalars(step, {f"val/{k}": measured[k] for k in ("ap", "ap50", "ap75")})
        for number, (pixels, found) in enumerate(examples):
            picture = draw(pixels, found, self._classes)
            self._open().picture(step, f"val/{number}", picture)
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "JPEG", quality=85)
            self._store.put(f"samples/{number}-{step:09d}.jpg", data.getvalue())

    def flush(self) -> None:
        """Put the steps since the last time."""
        if not self._steps:
            return
        board = self._open()
        for said in self._steps:
            losses = {f"loss/{k}": v for k, v in said.items() if k not in NOT_LOSSES}
            rate = self._spec.batch / said["seconds"]
            other = {"lr": said["lr"], "gradient norm": said["norm"], "images a second": rate}
            board.scalars(int(said["step"]), losses | other | {"data wait": said["wait"] / said["seconds"]})
        board.flush()
        lines = "".join(json.dumps(said) + "\n" for said in self._steps)
        self._store.put(f"{LOG_FOLDER}{int(self._steps[-1]['step']):09d}.jsonl", lines.encode())
        self._steps = []

    def conclude(self, measured: Sequence[Mapping[str, float]], workers: int, bad: Mapping[str, int]) -> None:
        """Put curves and summary of the whole training, and say the latter; nothing is taken in after it.

        `bad` counts the images that could not be used.
        """
        if self._board is not None:
            self._board.close()
            self._board = None
        steps = list(read_log(self._store))
        write_curves(self._store, steps, measured)
        seconds, waited = (sum(s[k] for s in steps) for k in ("seconds", "wait"))
        skipped = sum(s["skipped"] for s in steps)
        rate = len(steps) * self._spec.batch / seconds
        said = {
            "steps": len(steps),
            "skipped": int(skipped),
            "workers": workers,
            "images_per_second": round(rate, 3),
            "data_wait": round(waited / seconds, 5),
            "seconds": measured[-1]["seconds"],
            **bad,
        }
        self._store.put(SUMMARY_KEY, json.dumps(said, indent=2).encode())
        self._console.print(
            f"{many(len(steps), 'step')} of {self._spec.batch} in {seconds / 60:.1f} min of training: "
            f"{rate:.1f} images/s, {waited / seconds:.1%} waiting for data, {int(skipped)} skipped"
            + (f", {many(sum(bad.values()), 'image')} that could not be used" if any(bad.values()) else ""),
            highlight=False,
            soft_wrap=True,
        )

    def _open(self) -> Board:
        """The board, which only the process that writes has."""
        self._board = self._board or Board(self._store, self._first)
        return self._board

    def _print(self, step: int, now: float) -> None:
        recent = self._recent
        mean = {k: sum(s[k] for s in recent) / len(recent) for k in recent[0] if k not in NOT_LOSSES[3:]}
        mean.pop("step")
        seconds = max(now - self._last, 1e-6)
        rate = len(recent) * self._spec.batch / seconds
        waited = sum(s["wait"] for s in recent) / seconds
        losses = "  ".join(f"{name} {value:.3g}" for name, value in mean.items())
        skipped = int(sum(s["skipped"] for s in recent))
        left = (self._spec.training.steps - step) * (now - self._began) / max(step - self._first, 1)
        self._console.print(
            f"step {step:,}/{self._spec.training.steps:,}  {losses}  {rate:.1f} images/s, "
            f"{waited:.0%} waiting for data, {left / 60:.0f} min left"
            + (f", {many(skipped, 'step')} skipped" if skipped else ""),
            highlight=False,
            soft_wrap=True,
        )
        self.said = {
            "step": step,
            "steps": self._spec.training.steps,
            "losses": {name: round(value, 6) for name, value in mean.items()},
            "images_per_second": round(rate, 3),
            "data_wait": round(waited, 5),
            "skipped": skipped,
            "seconds_left": round(left),
        }
        structured.event("step", **self.said)
