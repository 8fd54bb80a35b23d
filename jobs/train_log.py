"""What a training says as it goes: a line every few seconds, and every step's losses for the curves."""

from __future__ import annotations

import time

from rich.console import Console

from jobs.train_spec import TrainSpec

SECONDS_BETWEEN_LINES = 10.0


class TrainLog:
    """Collects each step's losses; prints their mean, images a second, the share of time without data."""

    def __init__(self, spec: TrainSpec, console: Console) -> None:
        self._spec, self._console = spec, console
        self.steps: list[dict[str, float]] = []
        self._shown = 0
        self._began = self._last = time.monotonic()

    def step(self, step: int, terms: dict[str, float]) -> None:
        """Take in a step's losses, learning rate and wait."""
        self.steps.append({"step": step, **terms})
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES or step == self._spec.training.steps:
            self._print(step, now)
            self._last, self._shown = now, len(self.steps)

    def _print(self, step: int, now: float) -> None:
        recent = self.steps[self._shown :]
        mean = {k: sum(s[k] for s in recent) / len(recent) for k in recent[0] if k != "step"}
        seconds = max(now - self._last, 1e-6)
        rate = len(recent) * self._spec.batch / seconds
        waited = mean.pop("wait") * len(recent) / seconds
        losses = "  ".join(f"{name} {value:.3g}" for name, value in mean.items())
        left = (self._spec.training.steps - step) * (now - self._began) / max(step, 1)
        self._console.print(
            f"step {step:,}/{self._spec.training.steps:,}  {losses}  {rate:.1f} images/s, "
            f"{waited:.0%} waiting for data, {left / 60:.0f} min left",
            highlight=False,
            soft_wrap=True,
        )
