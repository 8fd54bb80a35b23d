"""Weights files: safetensors whose metadata carries the configuration of what they hold.

Two kinds: a whole model, ready for `load`, and a backbone alone, from which training starts
(`load_backbone`). Every tensor's name and shape is compared with what it should be before a byte of data is
read; `weightsfile` reads what comes before the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from condinst.backbone import FrozenBatchNorm2d
from condinst.config import BackboneConfig, BackboneFile, InputConfig, ModelConfig, Precision
from condinst.model import CondInst
from condinst.shapes import shapes_only
from condinst.weightsfile import (
    BACKBONE,
    MODEL,
    WeightsError,
    parse_config,
    read_backbone,
    read_metadata,
    resolve,
    tensor_infos,
)


def num_parameters(config: ModelConfig) -> int:
    """Learnable numbers of a model: all of its weights but what frozen batch norms hold."""
    with shapes_only():
        model = CondInst(config)
    return sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, FrozenBatchNorm2d)
        for parameter in module.parameters(recurse=False)
    )


def save(
    model: CondInst,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    notes: dict[str, str] | None = None,
) -> None:
    """Write a model and its configuration; `dtype` shrinks the tensors, `notes` join the metadata."""
    state = {
        name: value.to(dtype) if dtype and value.is_floating_point() else value
        for name, value in _stored(model.state_dict()).items()
    }
    _write(state, path, {"format": MODEL, "config": model.config.model_dump_json()}, notes)


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    *,
    compiled: bool = False,
) -> CondInst:
    """A model ready for `predict`: evaluation mode, norms folded, channels last, in `precision`.

    `path` is a safetensors file of ours, or `demo`. `compiled`: with `CondInst.compile_dense`. In float32 on
    a GPU this process computes no convolution in TF32 from now on, as torch would by default. Raises
    WeightsError, and CompileError where nothing can be compiled.
    """
    if precision == "float32" and torch.device(device).type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa are none of what was asked for
    model = load_for_training(path).optimize_for_inference(precision).to(device)
    return model.compile_dense() if compiled else model


def load_for_training(path: str | Path) -> CondInst:
    """The model of a file in float32 with its norms as they are. Raises WeightsError."""
    found = resolve(path)
    config = parse_config(found, read_metadata(found), ModelConfig)
    with shapes_only():
        shapes = _shapes(CondInst(config).state_dict())
    return build(config, _read_state(found, shapes))


def build(config: ModelConfig, state: Mapping[str, Tensor]) -> CondInst:
    """A model of copies of these weights in float32, without initialising any first; `state` must fit it."""
    with shapes_only():
        model = CondInst(config)
    own = {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in state.items()}
    model.load_state_dict(own, strict=False, assign=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros((), dtype=torch.long)  # no file has it
    return model


def save_backbone(
    state: Mapping[str, Tensor],
    config: BackboneFile,
    path: str | Path,
    *,
    notes: dict[str, str] | None = None,
) -> None:
    """Write the weights of a backbone alone, named as in `model.backbone`."""
    _write(state, path, {"format": BACKBONE, "config": config.model_dump_json()}, notes)


def load_backbone(model: CondInst, path: str | Path) -> None:
    """Put a backbone's file into a model in place; the rest of the model stays as it is.

    Raises WeightsError when the model's backbone is another one, or when its input is normalised otherwise
    than the weights were trained with. Frozen and trainable batch norm take the same weights.
    """
    found = resolve(path)
    stated = read_backbone(found)
    if differing := _differences(stated, model.config):
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(differing)}")
    model.backbone.load_state_dict(_read_state(found, _shapes(model.backbone.state_dict())), strict=False)


def _read_state(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A file's tensors as float32, once their names and shapes are the expected ones. Raises WeightsError."""
    found = {name: info.shape for name, info in tensor_infos(path).items()}
    if problem := _mismatch(expected, found):
        raise WeightsError(f"{path}: does not fit its own configuration: {problem}")
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in found}


def _mismatch(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    if missing := sorted(expected.keys() - found.keys()):
        return f"{len(missing)} tensors are missing, {missing[0]} first"
    if extra := sorted(found.keys() - expected.keys()):
        return f"{len(extra)} tensors have no place, {extra[0]} first"
    for name, shape in expected.items():
        if found[name] != shape:
            return f"{name} has shape {found[name]}, expected {shape}"
    return None


def _differences(file: BackboneFile, config: ModelConfig) -> list[str]:
    """What keeps a backbone's file from a model, in words: `backbone.depth is 50, the model has 101`."""
    basic = file.backbone.depth < 50
    settings: list[tuple[str, BackboneConfig | InputConfig, BackboneConfig | InputConfig, list[str]]] = [
        (
            "backbone",
            file.backbone,
            config.backbone,
            ["depth", "stem_channels", "width"] + ([] if basic else ["stride_in_1x1"]),
        ),
        ("input", file.input, config.input, ["channel_order", "mean", "std"]),
    ]
    differing = [
        f"{part}.{name} is {getattr(theirs, name)}, the model has {getattr(ours, name)}"
        for part, theirs, ours, names in settings
        for name in names
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if (file.backbone.norm == "group") != (config.backbone.norm == "group"):
        differing.append(f"backbone.norm is {file.backbone.norm}, the model has {config.backbone.norm}")
    return differing


def _stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state that files hold."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _stored(state).items()}


def _write(
    state: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str], notes: dict[str, str] | None
) -> None:
    tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
    save_file(tensors, str(path), {**metadata, **(notes or {})})
    _settle(Path(path))


def _settle(path: Path) -> None:
    """Put the metadata of a file just written in order: it comes at random, and would change the digest."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise RuntimeError(f"{path}: safetensors wrote its header in another way than JSON's shortest")
        file.seek(8)
        file.write(text.ljust(length))
