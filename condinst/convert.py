"""Other projects' checkpoints as ours: the key layouts of AdelaiDet and mmdetection."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condinst.config import (
    BackboneConfig,
    FpnConfig,
    HeadConfig,
    MaskConfig,
    ModelConfig,
    mmdetection_detect,
    mmdetection_input,
)
from condinst.model import CondInst
from condinst.weights import WeightsError

_NORM = r"(weight|bias|running_mean|running_var)"
_WB = r"(weight|bias)"

# (pattern of the other project's key, our key); {g+n} and {g-n} shift the number in group g.
_ADELAIDET = [
    (r"backbone\.bottom_up\.stem\.conv1\.weight", r"backbone.stem.conv.weight"),
    (rf"backbone\.bottom_up\.stem\.conv1\.norm\.{_NORM}", r"backbone.stem.norm.\1"),
    (
        rf"backbone\.bottom_up\.res(\d)\.(\d+)\.(conv\d|shortcut)\.norm\.{_NORM}",
        r"backbone.stages.{1-2}.\2.\3.norm.\4",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.(conv\d|shortcut)\.weight",
        r"backbone.stages.{1-2}.\2.\3.conv.weight",
    ),
    (rf"backbone\.fpn_(lateral|output)(\d)\.{_WB}", r"fpn.\1.{2-3}.\3"),
    (rf"backbone\.top_block\.(p6|p7)\.{_WB}", r"fpn.\1.\2"),
    (rf"proposal_generator\.fcos_head\.cls_tower\.(\d+)\.{_WB}", r"head.class_tower.\1.\2"),
    (rf"proposal_generator\.fcos_head\.bbox_tower\.(\d+)\.{_WB}", r"head.box_tower.\1.\2"),
    (rf"proposal_generator\.fcos_head\.cls_logits\.{_WB}", r"head.logits.\1"),
    (rf"proposal_generator\.fcos_head\.bbox_pred\.{_WB}", r"head.distances.\1"),
    (rf"proposal_generator\.fcos_head\.ctrness\.{_WB}", r"head.quality.\1"),
    (r"proposal_generator\.fcos_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    (rf"controller\.{_WB}", r"head.controller.\1"),
    (r"mask_branch\.(refine|tower)\.(\d)\.0\.weight", r"mask_branch.\1.\2.conv.weight"),
    (rf"mask_branch\.(refine|tower)\.(\d)\.1\.{_NORM}", r"mask_branch.\1.\2.norm.\3"),
    (rf"mask_branch\.tower\.\d+\.{_WB}", r"mask_branch.features.\1"),
    (r"mask_branch\.seg_head\.(\d)\.0\.weight", r"mask_branch.semantic.\1.conv.weight"),
    (rf"mask_branch\.seg_head\.(\d)\.1\.{_NORM}", r"mask_branch.semantic.\1.norm.\2"),
    (rf"mask_branch\.logits\.{_WB}", r"mask_branch.semantic_logits.\1"),
]
_MMDETECTION = [
    (r"backbone\.conv1\.weight", r"backbone.stem.conv.weight"),
    (rf"backbone\.bn1\.{_NORM}", r"backbone.stem.norm.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.(conv\d)\.weight", r"backbone.stages.{1-1}.\2.\3.conv.weight"),
    (rf"backbone\.layer(\d)\.(\d+)\.bn(\d)\.{_NORM}", r"backbone.stages.{1-1}.\2.conv\3.norm.\4"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.weight", r"backbone.stages.{1-1}.\2.shortcut.conv.weight"),
    (rf"backbone\.layer(\d)\.(\d+)\.downsample\.1\.{_NORM}", r"backbone.stages.{1-1}.\2.shortcut.norm.\3"),
    (rf"neck\.lateral_convs\.(\d)\.conv\.{_WB}", r"fpn.lateral.\1.\2"),
    (rf"neck\.fpn_convs\.([0-2])\.conv\.{_WB}", r"fpn.output.\1.\2"),
    (rf"neck\.fpn_convs\.3\.conv\.{_WB}", r"fpn.p6.\1"),
    (rf"neck\.fpn_convs\.4\.conv\.{_WB}", r"fpn.p7.\1"),
    (rf"bbox_head\.cls_convs\.(\d)\.conv\.{_WB}", r"head.class_tower.{1*3}.\2"),
    (rf"bbox_head\.cls_convs\.(\d)\.gn\.{_WB}", r"head.class_tower.{1*3+1}.\2"),
    (rf"bbox_head\.reg_convs\.(\d)\.conv\.{_WB}", r"head.box_tower.{1*3}.\2"),
    (rf"bbox_head\.reg_convs\.(\d)\.gn\.{_WB}", r"head.box_tower.{1*3+1}.\2"),
    (rf"bbox_head\.conv_cls\.{_WB}", r"head.logits.\1"),
    (rf"bbox_head\.conv_reg\.{_WB}", r"head.distances.\1"),
    (rf"bbox_head\.conv_centerness\.{_WB}", r"head.quality.\1"),
    (r"bbox_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    (rf"bbox_head\.controller\.{_WB}", r"head.controller.\1"),
    (
        r"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv\d\.conv\.weight",
        r"mask_branch.refine.\1.conv.weight",
    ),
    (
        rf"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv\d\.bn\.{_NORM}",
        r"mask_branch.refine.\1.norm.\2",
    ),
    (r"mask_head\.mask_feature_head\.conv_branch\.(\d)\.conv\.weight", r"mask_branch.tower.\1.conv.weight"),
    (rf"mask_head\.mask_feature_head\.conv_branch\.(\d)\.bn\.{_NORM}", r"mask_branch.tower.\1.norm.\2"),
    (rf"mask_head\.mask_feature_head\.conv_pred\.{_WB}", r"mask_branch.features.\1"),
]
_IGNORED = re.compile(r".*num_batches_tracked|mask_head\.(sizes_of_interest|_iter)|pixel_(mean|std)")
_UNSUPPORTED = {
    "BiFPN": re.compile(r".*bifpn", re.IGNORECASE),
    "deformable convolution": re.compile(r".*(conv\d_offset|offset_mask|\.conv_offset|dcn)", re.IGNORECASE),
    "vision transformer backbone": re.compile(r".*(attn|relative_position)", re.IGNORECASE),
}


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our form."""

    model: CondInst
    flavour: str
    """`adelaidet` or `mmdetection`."""
    ignored: list[str]
    """Keys that hold no weights of the model, such as iteration counters."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` file: bare, or under `model` or `state_dict`. Never unpickles objects.

    Raises WeightsError.
    """
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises many types for a hostile or broken file
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: not a checkpoint that can be read without running code from it ({first})"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise WeightsError(f"{path}: holds no dictionary of tensors")
    tensors = {str(key): value for key, value in data.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    return tensors


def convert(checkpoint: Mapping[str, Tensor], classes: Sequence[str] | None = None) -> Converted:
    """A model with a checkpoint's weights; its architecture is read off the tensors' shapes.

    `classes` names the categories, by default class_0, class_1, ... Raises WeightsError naming every key
    without a place, every weight that is missing, and every part we do not have.
    """
    for part, pattern in _UNSUPPORTED.items():
        if found := [key for key in checkpoint if pattern.match(key)]:
            raise WeightsError(f"the checkpoint needs {part} ({found[0]}), which this project does not have")
    mmdetection = any(key.startswith("bbox_head.") for key in checkpoint)
    renamed, ignored, strange = _rename(checkpoint)
    if strange:
        raise WeightsError(f"{len(strange)} keys have no place in the model: {', '.join(strange)}")
    state = _join_scales(renamed)
    model = CondInst(_config_of(state, mmdetection, classes))
    _fill(model, state)
    return Converted(model, "mmdetection" if mmdetection else "adelaidet", ignored)


def _rename(checkpoint: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    renamed: dict[str, Tensor] = {}
    ignored, strange = [], []
    for key, value in checkpoint.items():
        if _IGNORED.fullmatch(key):
            ignored.append(key)
        elif name := our_key(key):
            renamed[name] = value
        else:
            strange.append(key)
    return renamed, ignored, strange


def our_key(key: str) -> str | None:
    """Our name of a weight of either project; None for one without a place here."""
    for pattern, template in _ADELAIDET + _MMDETECTION:
        if match := re.fullmatch(pattern, key):
            return _expand(match, template)
    return None


def _expand(match: re.Match[str], template: str) -> str:
    """Fill \\g and {g-n}, {g*m}, {g*m+n} (group g, shifted or scaled) of a template."""

    def number(m: re.Match[str]) -> str:
        times, plus = int(m[2] or 1), int(m[3] or 0)
        return str(int(match[int(m[1])]) * times + plus)

    return match.expand(re.sub(r"\{(\d)(?:\*(\d+))?([+-]\d+)?\}", number, template))


def _join_scales(state: dict[str, Tensor]) -> dict[str, Tensor]:
    scales = [state.pop(f"head.scales.{level}", None) for level in range(5)]
    if all(s is not None for s in scales):
        state["head.scales"] = torch.stack([s.reshape(()) for s in scales if s is not None])
    return state


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise WeightsError(f"not a whole CondInst: there is no {key} (in our naming) among the weights")
    return tuple(state[key].shape)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for key in state if re.fullmatch(pattern, key))


def _config_of(state: Mapping[str, Tensor], mmdetection: bool, classes: Sequence[str] | None) -> ModelConfig:
    num_classes = _shape(state, "head.logits.weight")[0]
    if classes is not None and len(classes) != num_classes:
        raise WeightsError(f"{len(classes)} class names were given for weights of {num_classes} classes")
    flavour = {"input": mmdetection_input(), "detect": mmdetection_detect()} if mmdetection else {}
    return ModelConfig(
        classes=tuple(classes) if classes else tuple(f"class_{n}" for n in range(num_classes)),
        backbone=_backbone_of(state, stride_in_1x1=not mmdetection),
        fpn=FpnConfig(channels=_shape(state, "fpn.p6.weight")[0]),
        head=HeadConfig(num_convs=_count(state, r"head\.class_tower\.\d+\.weight") // 2),
        mask=_mask_of(state),
        **flavour,  # type: ignore[arg-type]
    )


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


def _backbone_of(state: Mapping[str, Tensor], stride_in_1x1: bool) -> BackboneConfig:
    blocks = tuple(
        _count(state, rf"backbone\.stages\.{stage}\.\d+\.conv1\.conv\.weight") for stage in range(4)
    )
    bottleneck = "backbone.stages.0.0.conv3.conv.weight" in state
    depths: dict[tuple[tuple[int, ...], bool], int] = {
        ((2, 2, 2, 2), False): 18,
        ((3, 4, 6, 3), False): 34,
        ((3, 4, 6, 3), True): 50,
        ((3, 4, 23, 3), True): 101,
    }
    depth = depths.get((blocks, bottleneck))
    if depth is None:
        raise WeightsError(
            f"its backbone has {blocks} blocks a stage; ResNet-18, 34, 50 and 101 are supported"
        )
    return BackboneConfig.model_validate(
        {
            "depth": depth,
            "stem_channels": _shape(state, "backbone.stem.conv.weight")[0],
            "width": _shape(state, "backbone.stages.0.0.conv1.conv.weight")[0],
            "stride_in_1x1": stride_in_1x1,
        }
    )


def _fill(model: CondInst, state: Mapping[str, Tensor]) -> None:
    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    if missing := sorted(own.keys() - state.keys()):
        raise WeightsError(f"{len(missing)} weights are missing (in our naming): {', '.join(missing)}")
    if extra := sorted(state.keys() - own.keys()):
        raise WeightsError(f"{len(extra)} weights have no place (in our naming): {', '.join(extra)}")
    if wrong := [k for k in own if own[k].shape != state[k].shape]:
        shapes = ", ".join(f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in wrong)
        raise WeightsError(f"weights of another shape: {shapes}")
    model.load_state_dict(dict(state), strict=False)
