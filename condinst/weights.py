"""Weights files: safetensors whose metadata carries the configuration of what they hold.

Two kinds: a whole model, ready for `load`, and a backbone alone, from which training starts
(`load_backbone`). `weightsfile` reads both with the care that input from outside needs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from condinst.backbone import FrozenBatchNorm2d
from condinst.config import DEMO, BackboneConfig, BackboneFile, InputConfig, ModelConfig, Precision
from condinst.model import CondInst
from condinst.shapes import shapes_only
from condinst.weightsfile import (
    BACKBONE,
    MODEL,
    WeightsError,
    parse_config,
    read_metadata,
    read_state,
    unreadable,
)

__all__ = [
    "DEMO",
    "WeightsError",
    "build",
    "demo_path",
    "digest",
    "load",
    "load_backbone",
    "load_for_training",
    "num_parameters",
    "read_backbone",
    "read_config",
    "read_notes",
    "resolve",
    "save",
    "save_backbone",
]


def demo_path() -> Path:
    """The weights shipped with the package, trained on generated scenes."""
    return Path(str(files("condinst"))) / "demo" / "fields.safetensors"


def resolve(path: str | Path) -> Path:
    """The file behind `demo` or a path. Raises WeightsError if there is none."""
    found = demo_path() if str(path) == DEMO else Path(path)
    if os.path.isdir(found):
        raise WeightsError(f"{path}: a folder, not a weights file; name the .safetensors file in it")
    # Unlike `is_file`, it has no exception for a name that the disk cannot hold.
    if not os.path.isfile(found):
        raise WeightsError(f"{path}: no such weights file; give a .safetensors file or `{DEMO}`")
    return found


def digest(path: str | Path) -> str:
    """SHA-256 of the file, hexadecimal: the model's identity in every table. Raises WeightsError."""
    found = resolve(path)
    try:
        with found.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(found, error) from None


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


def read_config(path: str | Path) -> ModelConfig:
    """The configuration inside a model's file. Raises WeightsError."""
    found = resolve(path)
    return parse_config(found, read_metadata(found), ModelConfig)


def read_notes(path: str | Path) -> dict[str, str]:
    """What else a file of either kind says of itself: how and on what it was trained. Raises WeightsError."""
    metadata = read_metadata(resolve(path), wanted=None)
    return {k: v for k, v in metadata.items() if k not in ("format", "config")}


def load(path: str | Path, device: str | torch.device = "cpu", precision: Precision = "float32") -> CondInst:
    """A model ready for `predict`: evaluation mode, norms folded, channels last, in `precision`.

    `path` is a safetensors file of ours, or `demo`. In float32 on a GPU this process computes no convolution
    in TF32 from now on, as torch would by default. Raises WeightsError.
    """
    if precision == "float32" and torch.device(device).type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # its ten bits of mantissa are none of what was asked for
    return load_for_training(path).optimize_for_inference(precision).to(device)


def load_for_training(path: str | Path) -> CondInst:
    """The model of a file in float32 with its norms as they are. Raises WeightsError."""
    found = resolve(path)
    config = parse_config(found, read_metadata(found), ModelConfig)
    with shapes_only():
        shapes = _shapes(CondInst(config).state_dict())
    return build(config, read_state(found, shapes))


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


def read_backbone(path: str | Path) -> BackboneFile:
    """What a backbone's file fits, for building a model around it. Raises WeightsError."""
    found = resolve(path)
    return parse_config(found, read_metadata(found, BACKBONE), BackboneFile)


def load_backbone(model: CondInst, path: str | Path) -> None:
    """Put a backbone's file into a model in place; the rest of the model stays as it is.

    Raises WeightsError when the model's backbone is another one, or when its input is normalised otherwise
    than the weights were trained with. Frozen and trainable batch norm take the same weights.
    """
    found = resolve(path)
    stated = read_backbone(found)
    if differing := _differences(stated, model.config):
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(differing)}")
    model.backbone.load_state_dict(read_state(found, _shapes(model.backbone.state_dict())), strict=False)


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
