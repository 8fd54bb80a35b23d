"""Starting from other weights: what fits is taken over, classes by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from condinst.config import ModelConfig
from condinst.model import CondInst

_BY_CLASS = ("head.logits.weight", "head.logits.bias", "mask_branch.semantic_logits")


@dataclass(frozen=True)
class Taken:
    """What became of a model's classes."""

    kept: tuple[str, ...]
    """Classes of both, whose weights were taken over."""
    new: tuple[str, ...]
    """Classes that the weights did not know; they start from nothing."""
    dropped: tuple[str, ...]
    """Classes that are no longer there."""


def with_classes(model: CondInst, classes: Sequence[str]) -> tuple[CondInst, Taken]:
    """The model with other classes, matched by name; what is no class's own is taken over whole."""
    old = model.config.classes
    detect = model.config.detect.model_copy(update={"classes": None, "class_thresholds": ()})
    config = ModelConfig.model_validate(
        {**model.config.model_dump(), "classes": tuple(classes), "detect": detect.model_dump()}
    )
    made = CondInst(config)
    state = made.state_dict()
    both = [(classes.index(name), old.index(name)) for name in classes if name in old]
    for key, value in model.state_dict().items():
        if key.startswith(_BY_CLASS):
            for ours, theirs in both:
                state[key][ours] = value[theirs]
        else:
            state[key] = value
    made.load_state_dict(state)
    return made, Taken(
        tuple(n for n in classes if n in old),
        tuple(n for n in classes if n not in old),
        tuple(n for n in old if n not in classes),
    )
