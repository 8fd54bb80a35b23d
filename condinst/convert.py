"""Whole models of other projects as ours: AdelaiDet's and mmdetection's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from condinst.coco_classes import COCO_CLASSES
from condinst.config import (
    STRIDES,
    BackboneConfig,
    FpnConfig,
    HeadConfig,
    MaskConfig,
    ModelConfig,
    mmdetection_detect,
    torchvision_input,
)
from condinst.keys import UNSUPPORTED, holds_no_weights, our_key
from condinst.model import CondInst
from condinst.shapes import shapes_only
from condinst.weights import build
from condinst.weightsfile import WeightsError

_MOST_CLASSES = 10_000
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
}
"""(blocks of each stage, whether they are bottlenecks) to depth."""


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our form."""

    model: CondInst
    flavour: str
    """`adelaidet` or `mmdetection`."""
    ignored: list[str]
    """Keys that hold no weights of the model, such as iteration counters."""


def convert(checkpoint: Mapping[str, Tensor], classes: Sequence[str] | None = None) -> Converted:
    """A model with a checkpoint's weights; its architecture is read off the tensors' shapes.

    `classes` names the categories; by default COCO's where there are 80, else class_0, class_1, ...
    Raises WeightsError naming every key without a place, every missing weight, and a part we do not have.
    """
    refuse_unsupported(checkpoint)
    mmdetection = any(key.startswith("bbox_head.") for key in checkpoint)
    renamed, ignored, strange = _rename(checkpoint)
    if strange:
        raise WeightsError(f"{len(strange)} keys have no place in the model: {', '.join(strange)}")
    state = _join_scales(renamed)
    sizes = _sizes_of_interest(checkpoint.get("mask_head.sizes_of_interest"))
    try:
        config = _config_of(state, mmdetection, classes, sizes)
    except ValidationError as error:
        raise WeightsError(f"no CondInst of a supported size: {_first(error)}") from None
    with shapes_only():
        own = CondInst(config).state_dict()
    check_state(state, own)
    return Converted(build(config, state), "mmdetection" if mmdetection else "adelaidet", ignored)


def refuse_unsupported(keys: Iterable[str]) -> None:
    """Raise WeightsError naming a part that the keys betray and we do not have."""
    listed = list(keys)
    for part, pattern in UNSUPPORTED.items():
        if found := [key for key in listed if pattern.match(key)]:
            raise WeightsError(f"the checkpoint needs {part} ({found[0]}), which this project does not have")


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise WeightsError naming every weight that is missing, has no place, or is of another shape."""
    own = {k: v for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    if missing := sorted(own.keys() - state.keys()):
        raise WeightsError(f"{len(missing)} weights are missing (in our naming): {', '.join(missing)}")
    if extra := sorted(state.keys() - own.keys()):
        raise WeightsError(f"{len(extra)} weights have no place (in our naming): {', '.join(extra)}")
    if wrong := [k for k in own if own[k].shape != state[k].shape]:
        shapes = ", ".join(f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in wrong)
        raise WeightsError(f"weights of another shape: {shapes}")


def backbone_of(state: Mapping[str, Tensor], stride_in_1x1: bool) -> BackboneConfig:
    """The backbone that weights in our naming are of; where its stride is they do not tell.

    Raises WeightsError for one that is none of ours.
    """
    blocks = tuple(
        _count(state, rf"backbone\.stages\.{stage}\.\d+\.conv1\.conv\.weight") for stage in range(4)
    )
    depth = _DEPTHS.get((blocks, "backbone.stages.0.0.conv3.conv.weight" in state))
    if depth is None:
        raise WeightsError(
            f"its backbone has {blocks} blocks a stage; ResNet-18, 34, 50 and 101 are supported"
        )
    try:
        return BackboneConfig.model_validate(
            {
                "depth": depth,
                "stem_channels": _shape(state, "backbone.stem.conv.weight")[0],
                "width": _shape(state, "backbone.stages.0.0.conv1.conv.weight")[0],
                "stride_in_1x1": stride_in_1x1,
            }
        )
    except ValidationError as error:
        raise WeightsError(f"no backbone of a supported size: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    details = error.errors()[0]
    return f"{'.'.join(str(part) for part in details['loc'])}: {details['msg']}"


def _rename(checkpoint: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    renamed: dict[str, Tensor] = {}
    ignored, strange = [], []
    for key, value in checkpoint.items():
        if holds_no_weights(key):
            ignored.append(key)
        elif name := our_key(key):
            renamed[name] = value
        else:
            strange.append(key)
    return renamed, ignored, strange


def _join_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    scales = [state.pop(f"head.scales.{level}", None) for level in range(5)]
    if all(s is not None and s.numel() == 1 for s in scales):
        state["head.scales"] = torch.stack([s.reshape(()) for s in scales if s is not None])
    return state


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state or state[key].dim() == 0:
        raise WeightsError(f"not a whole CondInst: there is no {key} (in our naming) among the weights")
    return tuple(state[key].shape)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for key in state if re.fullmatch(pattern, key))


def _config_of(
    state: Mapping[str, Tensor], mmdetection: bool, classes: Sequence[str] | None, sizes: tuple[int, ...]
) -> ModelConfig:
    flavour = {"input": torchvision_input(), "detect": mmdetection_detect()} if mmdetection else {}
    return ModelConfig.model_validate(
        {
            "classes": _names(_shape(state, "head.logits.weight")[0], classes),
            "backbone": backbone_of(state, stride_in_1x1=not mmdetection),
            "fpn": FpnConfig(channels=_shape(state, "fpn.p6.weight")[0]),
            "head": HeadConfig(num_convs=_count(state, r"head\.class_tower\.\d+\.weight") // 2),
            "mask": _mask_of(state).model_copy(update={"sizes_of_interest": sizes}),
            **flavour,
        }
    )


def _names(count: int, given: Sequence[str] | None) -> tuple[str, ...]:
    if count > _MOST_CLASSES:
        raise WeightsError(f"the weights are of {count} classes; {_MOST_CLASSES} are the most")
    if given is not None and len(given) != count:
        raise WeightsError(f"{len(given)} class names were given for weights of {count} classes")
    if given:
        return tuple(given)
    return COCO_CLASSES if count == len(COCO_CLASSES) else tuple(f"class_{n}" for n in range(count))


def _sizes_of_interest(given: Tensor | None) -> tuple[int, ...]:
    """What relative coordinates are divided by: a constant that AdelaiDet keeps among the weights."""
    if given is None or given.numel() != len(STRIDES) or not bool((given >= 1).all()):
        return MaskConfig().sizes_of_interest
    return tuple(int(size) for size in given.flatten())


def _mask_of(state: Mapping[str, Tensor]) -> MaskConfig:
    """The width of the instances' networks is the one that needs as many numbers as the controller gives."""
    generated = _shape(state, "head.controller.weight")[0]
    features = _shape(state, "mask_branch.features.weight")[0]
    for width in range(1, 65):
        mask = MaskConfig(
            branch_channels=_shape(state, "mask_branch.refine.0.conv.weight")[0],
            branch_convs=_count(state, r"mask_branch\.tower\.\d+\.conv\.weight"),
            features=features,
            head_channels=width,
            semantic="mask_branch.semantic_logits.weight" in state,
        )
        if mask.num_parameters == generated:
            return mask
    raise WeightsError(
        f"its controller generates {generated} numbers, which no network of 3 layers on {features} mask "
        "features has: relative coordinates left out and other depths are not supported"
    )
