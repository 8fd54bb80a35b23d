"""A plain training loop in one process: batches in, a trained model out.

With `torch.use_deterministic_algorithms(True)` and a fixed number of threads, the same at every run.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from condinst.config import Part
from condinst.criterion import Criterion
from condinst.model import CondInst
from condinst.targets import Target


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    x: Tensor
    """(N, 3, H, W) network input."""
    targets: list[Target]
    """Ground truth of each image."""
    similarity: list[Tensor] | None = None
    """Each image's `boxinst.colour_similarity`, for the BoxInst loss only."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if device == self.x.device:
            return self
        similarity = [s.to(device) for s in self.similarity] if self.similarity is not None else None
        return Batch(self.x.to(device), [t.to(device) for t in self.targets], similarity)


class FitConfig(Part):
    """How to train."""

    steps: Annotated[int, Field(ge=1)] = 3000
    """Optimiser steps."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW suits small models from scratch; SGD with momentum 0.9 is the papers'."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, reached after the warm-up and followed by a cosine to a hundredth."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Applied to convolution weights, not to norms and biases."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of linear warm-up from a thousandth."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest norm of the gradient."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the exponential moving average of the weights, which is what training returns."""
    bfloat16: bool = True
    """Convolutions in bfloat16 (autocast); weights and losses stay float32."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 500
    """Steps from one look at the averaged model to the next."""


def fit(
    model: CondInst,
    criterion: Criterion,
    batches: Iterator[Batch],
    config: FitConfig,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[int, CondInst], None] | None = None,
) -> CondInst:
    """Train `model` in place for `config.steps` batches.

    Afterwards the model holds the averaged weights. `on_step` gets the step, counted from 1, and its losses,
    learning rate (`lr`) and seconds spent waiting for data (`wait`). `on_checkpoint` gets the step and a copy
    of the averaged model in evaluation mode, every `config.checkpoint_steps` and after the last. A step whose
    loss is not finite is skipped; ten in a row raise FloatingPointError.
    """
    optimizer = _optimizer(model, config)
    average = _Average(model, config.average)
    model.train()
    bad = 0
    stream = prefetch(batches)
    for step in range(1, config.steps + 1):
        began = time.perf_counter()
        batch = next(stream).to(model.device)
        wait = time.perf_counter() - began
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=config.bfloat16):
            dense = model(batch.x)
        terms = criterion(model, dense, batch.targets, batch.similarity)
        total = torch.stack(list(terms.values())).sum()
        bad = 0 if bool(torch.isfinite(total)) else bad + 1
        if bad >= 10:
            raise FloatingPointError(f"ten losses in a row were not finite, the last at step {step}")
        if bad == 0:
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            average.update(model, step)
        if on_step:
            on_step(step, {k: v.item() for k, v in terms.items()} | {"lr": rate, "wait": wait})
        if on_checkpoint and (step % config.checkpoint_steps == 0 or step == config.steps):
            on_checkpoint(step, average.model(model))
    average.store(model)
    return model.eval()


def learning_rate(step: int, config: FitConfig) -> float:
    """Of a step counted from 1: linear warm-up, then a cosine down to a hundredth of the peak."""
    if step <= config.warmup_steps:
        return config.learning_rate * max(1e-3, step / config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def _optimizer(model: CondInst, config: FitConfig) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


class _Average:
    """Exponential moving average of every floating tensor of a model, short-sighted at first."""

    def __init__(self, model: CondInst, decay: float) -> None:
        self._decay = decay
        self._state = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, model: CondInst, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        state = model.state_dict()
        own = list(self._state.values())
        torch._foreach_lerp_(own, [state[k] for k in self._state], 1 - decay)

    def model(self, model: CondInst) -> CondInst:
        """A copy of `model` with the averaged weights, for looking at."""
        averaged = copy.deepcopy(model)
        self.store(averaged)
        return averaged.eval()

    def store(self, model: CondInst) -> None:
        model.load_state_dict(self._state, strict=False)


def prefetch(batches: Iterator[Batch], depth: int = 4) -> Iterator[Batch]:
    """The same batches, made ahead in a thread; an exception there is raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)

    def work() -> None:
        try:
            for batch in batches:
                ready.put(batch)
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
