"""A training between two steps: what moves, and all that a checkpoint must hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from condinst.criterion import Criterion
from condinst.model import CondInst
from condinst.optimizing import FitConfig, make_optimizer, optimizer_state, restore_optimizer
from condinst.precision import decided


class Training:
    """A model, its losses' counters, its optimiser, its averaged weights, and how far it has come.

    The learning rate and the order of images are functions of the step, so the step stands for both.
    """

    def __init__(self, model: CondInst, criterion: Criterion, config: FitConfig) -> None:
        self.model, self.criterion, self.config = model, criterion, config
        if model.config.mask.semantic and not criterion.config.semantic:
            # Nothing is learned there, and a weight without gradient would hold the other processes up.
            for part in (model.mask_branch.semantic, model.mask_branch.semantic_logits):
                if part is not None:
                    part.requires_grad_(False)
        self.optimizer = make_optimizer(model, config)
        self.average = Average(model, config.average)
        self.step = 0
        """Steps done, the skipped ones too."""
        self.skipped = 0
        """Steps skipped."""
        self.bad = 0
        """Of those the last ones in a row."""
        device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=decided(config.precision, device) == "float16")
        """Scales the loss in float16, whose small gradients would vanish; does nothing otherwise."""

    def advance(self, rate: float) -> None:
        """Move the weights along their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.bad = 0
        self.average.update(self.model, self.step)

    def skip(self, buffers: Sequence[Tensor], overflow: bool = False) -> None:
        """Count a step that moves nothing; `buffers` are the model's from before it.

        `overflow`: its losses were finite and its gradients were not, which a smaller scale may cure.
        """
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        if self.scaler.is_enabled():
            # Never below 1, and not at all for losses that no scale makes finite.
            self.scaler.update(max(1.0, scale / 2) if overflow else scale)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.step, self.skipped = self.step + 1, self.skipped + 1
        self.bad += not (overflow and scale > 1)

    def averaged(self) -> CondInst:
        """A copy of the model with the averaged weights, in evaluation mode."""
        return self.average.model(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside `counters`, by names that say what of: `model/head.scales`."""
        parts = {
            "model": self.model.state_dict(),
            "average": self.average.state,
            "criterion": self.criterion.state_dict(),
            "optimizer": optimizer_state(self.optimizer, self.model),
            "scaler": {name: torch.tensor(self.scaler.state_dict()[name]) for name in self._scaling},
        }
        return {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}

    @property
    def _scaling(self) -> tuple[str, ...]:
        """What of the scaler's state moves."""
        return ("scale", "_growth_tracker") if self.scaler.is_enabled() else ()

    def counters(self) -> dict[str, int]:
        """How far it has come."""
        return {"step": self.step, "skipped": self.skipped, "bad": self.bad}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, int]) -> None:
        """Go on where these were taken. Raises ValueError when they are not of this model."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value
        try:
            self.model.load_state_dict(parts["model"])
            self.criterion.load_state_dict(parts["criterion"])
            self.average.restore(parts["average"])
            restore_optimizer(self.optimizer, self.model, parts.get("optimizer", {}))
            scaling = {name: parts["scaler"][name].item() for name in self._scaling}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scaling})
            self.step, self.skipped, self.bad = (int(counters[k]) for k in ("step", "skipped", "bad"))
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"not a state of this training: {error}") from None


class Average:
    """Exponential moving average of every floating tensor of a model, short-sighted at first."""

    def __init__(self, model: CondInst, decay: float) -> None:
        self._decay = decay
        self.state = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, model: CondInst, step: int) -> None:
        """Take in the weights after a step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        state = model.state_dict()
        own = list(self.state.values())
        torch._foreach_lerp_(own, [state[k] for k in self.state], 1 - decay)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put averaged weights back. Raises KeyError where one is missing."""
        for name, value in self.state.items():
            value.copy_(state[name])

    def model(self, model: CondInst) -> CondInst:
        """A copy of `model` with the averaged weights, for looking at."""
        averaged = copy.deepcopy(model)
        self.store(averaged)
        return averaged.eval()

    def store(self, model: CondInst) -> None:
        """Put the averaged weights into a model."""
        model.load_state_dict(self.state, strict=False)
