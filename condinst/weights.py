"""Weights files: safetensors whose metadata carries the model's configuration.

A file is input from outside: the header is bounded by the file's own size, the configuration is validated,
and every tensor's name and shape is compared with the model before a byte of data is read.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from condinst.config import ModelConfig, Precision
from condinst.model import CondInst

FORMAT = "condinst-1"
DEMO = "demo"
_CONFIG_BYTES = 1_000_000


class WeightsError(Exception):
    """A weights file that cannot be used; the message names the file, what is wrong and what to do."""


def demo_path() -> Path:
    """The weights shipped with the package, trained on generated scenes."""
    return Path(str(files("condinst"))) / "demo" / "fields.safetensors"


def resolve(path: str | Path) -> Path:
    """The file behind `demo` or a path. Raises WeightsError if there is none."""
    found = demo_path() if str(path) == DEMO else Path(path)
    if not found.is_file():
        raise WeightsError(f"{path}: no such weights file; give a .safetensors file or `{DEMO}`")
    return found


def digest(path: str | Path) -> str:
    """SHA-256 of the file, hexadecimal: the model's identity in every table."""
    with resolve(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    model: CondInst,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    notes: dict[str, str] | None = None,
) -> None:
    """Write a model and its configuration; `dtype` shrinks the tensors, `notes` join the metadata."""
    state = {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"format": FORMAT, "config": model.config.model_dump_json(), **(notes or {})}
    save_file(state, str(path), metadata)


def read_config(path: str | Path) -> ModelConfig:
    """The configuration inside a file. Raises WeightsError."""
    return _config_of(resolve(path), _metadata(resolve(path)))


def read_notes(path: str | Path) -> dict[str, str]:
    """What else the file says of itself: how and on what it was trained."""
    return {k: v for k, v in _metadata(resolve(path)).items() if k not in ("format", "config")}


def load(path: str | Path, device: str | torch.device = "cpu", precision: Precision = "float32") -> CondInst:
    """A model ready for `predict`: evaluation mode, norms folded, channels last, in `precision`.

    `path` is a safetensors file of ours, or `demo`. Raises WeightsError.
    """
    return load_for_training(path).optimize_for_inference(precision).to(device)


def load_for_training(path: str | Path) -> CondInst:
    """The model of a file in float32 with its norms as they are. Raises WeightsError."""
    found = resolve(path)
    config = _config_of(found, _metadata(found))
    with torch.device("meta"):
        model = CondInst(config)
    state = _read_state(found, model)
    model.to_empty(device="cpu")
    model.load_state_dict(state, strict=False)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    return model


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: a safetensors file, but not one of ours (metadata `format` is "
            f"{metadata.get('format')!r}, expected {FORMAT!r})"
        )
    return metadata


def _config_of(path: Path, metadata: dict[str, str]) -> ModelConfig:
    text = metadata.get("config", "")
    if len(text) > _CONFIG_BYTES:
        raise WeightsError(f"{path}: its configuration is {len(text)} bytes, more than {_CONFIG_BYTES}")
    try:
        return ModelConfig.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: bad configuration at {place or 'its root'}: {first['msg']}") from None
    except (json.JSONDecodeError, RecursionError):
        raise WeightsError(f"{path}: its metadata `config` is not JSON") from None


def _read_state(path: Path, model: CondInst) -> dict[str, torch.Tensor]:
    expected = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    with safe_open(str(path), framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if problem := _mismatch(expected, shapes):
            raise WeightsError(f"{path}: does not fit its own configuration: {problem}")
        return {name: file.get_tensor(name).float() for name in shapes}


def _mismatch(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str | None:
    if missing := sorted(expected.keys() - found.keys()):
        return f"{len(missing)} tensors are missing, {missing[0]} first"
    if extra := sorted(found.keys() - expected.keys()):
        return f"{len(extra)} tensors have no place, {extra[0]} first"
    for name, shape in expected.items():
        if found[name] != shape:
            return f"{name} has shape {found[name]}, expected {shape}"
    return None
