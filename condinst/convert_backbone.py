"""ImageNet backbones of other projects as ours: ResNets in torchvision's or detectron2's naming."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condinst.backbone import ResNet
from condinst.config import BackboneFile, InputConfig, torchvision_input
from condinst.convert import backbone_of, check_state, refuse_unsupported
from condinst.keys import holds_no_weights, is_classifier, is_detectron2_backbone, our_backbone_key, our_key
from condinst.shapes import shapes_only
from condinst.weightsfile import WeightsError

Recipe = Literal["caffe", "torchvision"]
"""How a backbone was trained: BGR with the stride in the first 1x1, or RGB with it in the 3x3."""

_EPSILON = 1e-5
_OF_A_BACKBONE = re.compile(r"backbone\.(?!fpn_|top_block\.|bifpn)")


@dataclass(frozen=True)
class ConvertedBackbone:
    """A backbone in our form."""

    state: dict[str, Tensor]
    """Weights named as in `model.backbone`, float32."""
    file: BackboneFile
    naming: Literal["torchvision", "detectron2"]
    """Whose names the checkpoint's keys are."""
    ignored: list[str]
    """Keys that are no weights of a backbone: the classifier, counters, the rest of a whole model."""
    affine_only: bool
    """Whether the norms came as scale and shift alone, their statistics folded in, as from Caffe2."""


def is_backbone_alone(checkpoint: Mapping[str, Tensor]) -> bool:
    """Whether there are weights of a backbone, and none of a pyramid or a head."""
    return any(map(our_backbone_key, checkpoint)) and not any(map(_is_beyond, checkpoint))


def convert_backbone(checkpoint: Mapping[str, Tensor], recipe: Recipe | None = None) -> ConvertedBackbone:
    """The backbone of a checkpoint, which may hold a whole model around it.

    `recipe` is how it was trained; by default what its naming suggests: detectron2's `caffe`, torchvision's
    `torchvision`. Raises WeightsError naming every key without a place and every weight that is missing.
    """
    alone = is_backbone_alone(checkpoint)
    own = [key for key in checkpoint if alone or _OF_A_BACKBONE.match(key)]
    refuse_unsupported(own)
    state, strange = _rename({key: checkpoint[key] for key in own})
    if not state:
        raise WeightsError(
            "there is no backbone in it: neither torchvision's keys (layer1.0.conv1.weight, ...) nor "
            f"detectron2's (res2.0.conv1.weight, ...); it has for example {next(iter(checkpoint))}"
        )
    if strange:
        raise WeightsError(f"{len(strange)} keys have no place in the backbone: {', '.join(strange)}")
    naming: Literal["torchvision", "detectron2"] = (
        "detectron2" if any(map(is_detectron2_backbone, own)) else "torchvision"
    )
    recipe = recipe or ("caffe" if naming == "detectron2" else "torchvision")
    affine_only = not any(key.endswith(("running_mean", "running_var")) for key in state)
    if affine_only:
        state |= _statistics(state)
    config = backbone_of(state, stride_in_1x1=recipe == "caffe")
    state = {key.removeprefix("backbone."): value.float() for key, value in state.items()}
    with shapes_only():
        check_state(state, ResNet(config).state_dict())
    return ConvertedBackbone(
        state,
        BackboneFile(backbone=config, input=InputConfig() if recipe == "caffe" else torchvision_input()),
        naming,
        [key for key in checkpoint if our_backbone_key(key) is None],
        affine_only,
    )


def _is_beyond(key: str) -> bool:
    """Whether a key is a weight of a whole model outside its backbone."""
    name = our_key(key)
    return name is not None and not name.startswith("backbone.")


def _rename(checkpoint: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """What has a place, in our naming, and the keys of what has none."""
    names = {key: our_backbone_key(key) for key in checkpoint}
    state = {name: checkpoint[key] for key, name in names.items() if name is not None}
    unplaced = [key for key, name in names.items() if name is None]
    return state, [key for key in unplaced if not holds_no_weights(key) and not is_classifier(key)]


def _statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Running statistics with which a batch norm only scales and shifts."""
    scales = {k.removesuffix("weight"): v for k, v in state.items() if k.endswith(".norm.weight")}
    means = {f"{norm}running_mean": torch.zeros_like(scale) for norm, scale in scales.items()}
    return means | {f"{n}running_var": torch.full_like(s, 1 - _EPSILON) for n, s in scales.items()}
