"""How the weights move: the training configuration, the optimiser's groups, the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from condinst.config import Part, Precision
from condinst.model import CondInst


class FitConfig(Part):
    """How to train."""

    steps: Annotated[int, Field(ge=1)] = 3000
    """Optimiser steps."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW suits small models from scratch; SGD with momentum 0.9 is the papers'."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, reached after the warm-up."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate of each backbone part for every part above it; 1 trains all alike."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """Applied to convolution weights, not to norms and biases."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Steps of linear warm-up from a thousandth."""
    schedule: Literal["cosine", "step"] = "cosine"
    """After the warm-up: a cosine to a hundredth of the peak, or a tenth of the rate at each milestone."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (2 / 3, 8 / 9)
    """Of the `step` schedule, shares of `steps`."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest norm of the gradient."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Parts that a step's batch goes through the network in, to save memory; a batch norm sees one part."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the exponential moving average of the weights, which is what training returns."""
    precision: Precision | Literal["auto"] = "auto"
    """What convolutions compute in (autocast); weights and losses stay float32. `auto` is bfloat16 on GPUs
    and on processors that multiply it themselves, and float32 on others. `float16`, for GPUs without
    bfloat16, scales the loss so that small gradients do not vanish."""
    max_skipped: Annotated[int, Field(ge=0)] = 10
    """Steps in a row that may be skipped for a loss or gradient that is not finite; one more ends the run."""
    checkpoint_steps: Annotated[int, Field(ge=1)] = 500
    """Steps from one checkpoint to the next: what a crash may cost."""
    measure_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps from one measurement of the averaged model to the next. Default: `checkpoint_steps`."""

    def checkpoint_at(self, step: int) -> bool:
        """Whether the state is kept after a step."""
        return step % self.checkpoint_steps == 0 or self.measure_at(step)

    def measure_at(self, step: int) -> bool:
        """Whether the averaged model is measured after a step."""
        return step % (self.measure_steps or self.checkpoint_steps) == 0 or step == self.steps


def learning_rate(step: int, config: FitConfig) -> float:
    """Of a step counted from 1: linear warm-up, then the schedule."""
    if step <= config.warmup_steps:
        return config.learning_rate * max(1e-3, step / config.warmup_steps)
    if config.schedule == "step":
        passed = sum(step > share * config.steps for share in config.milestones)
        return config.learning_rate * math.pow(0.1, passed)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def make_optimizer(model: CondInst, config: FitConfig) -> torch.optim.Optimizer:
    """The optimiser of what is trained; each group's `factor` goes on the learning rate of a step."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained(model):
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((decay, _factor(name, config.layer_decay)), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=config.learning_rate, momentum=0.9)
    return torch.optim.AdamW(listed, lr=config.learning_rate)


def trained(model: CondInst) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that learn, with their names."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _factor(name: str, decay: float) -> float:
    """Of the learning rate of a parameter: the stem is five parts below the pyramid, the last stage one."""
    parts = name.split(".")
    if parts[0] != "backbone":
        return 1.0
    stage = 0 if parts[1] == "stem" else int(parts[2]) + 1
    return float(math.pow(decay, 5 - stage))


def optimizer_state(optimizer: torch.optim.Optimizer, model: CondInst) -> dict[str, Tensor]:
    """Everything that the optimiser remembers, by parameter name and kind: `exp_avg/head.scales`."""
    return {
        f"{kind}/{name}": value
        for name, parameter in trained(model)
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: CondInst, state: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(trained(model))
    for key, value in state.items():
        kind, _, name = key.partition("/")
        # A number of steps stays where it is; the rest lies beside its parameter, and in its layout.
        like = value if kind == "step" else parameters[name]
        optimizer.state[parameters[name]][kind] = torch.empty_like(like).copy_(value)
