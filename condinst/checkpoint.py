"""Checkpoints of other projects, read without running anything in them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from condinst.weightsfile import WeightsError

_REMEDY = (
    "where you trust the file, open it with the project that wrote it and save its tensors alone: "
    "torch.save({name: tensor, ...}, 'tensors.pth')"
)
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""How torch names what it would have to run."""
_SIGNS = {b"\xff\xd8\xff": "a JPEG image", b"\x89PNG": "a PNG image", b"\x89HDF": "HDF5", b"%PDF": "a PDF"}
_LOOKED_AT = 1024


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors under the names that the other project gave them."""

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None = None
    """Category names, where the file tells them (mmdetection's do)."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.pth` file (bare, or under `model` or `state_dict`) or a safetensors file; runs nothing in it.

    Raises WeightsError for a file that is none of these, that would have to run code, or whose tensors claim
    to be larger than their data.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such checkpoint")
    data = _load(path)
    classes = _classes(data)
    for key in ("model", "state_dict"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise WeightsError(f"{path}: holds no dictionary of tensors")
    tensors = {str(key): value for key, value in data.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors")
    for name, tensor in tensors.items():
        _check(path, name, tensor)
    return Checkpoint(tensors, classes)


def _load(path: Path) -> Any:
    if path.suffix == ".pkl":
        raise WeightsError(
            f"{path}: a pickle, which runs code when it is opened, so it is not read here; {_REMEDY} "
            "(docs/weights.md has the lines)"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    except Exception as error:  # torch raises many types for a hostile or broken file
        raise WeightsError(
            f"{path}: not a checkpoint of tensors alone, which can be read without running code from it: "
            f"{_looks(path, error)}"
        ) from None


def _looks(path: Path, error: Exception) -> str:
    """What a file that torch refuses looks like, and what to do: torch's own words advise to run it."""
    if found := _GLOBAL.search(str(error)):
        return f"it holds an object of {found[1][:100]}; {_REMEDY}"
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError as unread:
        return f"it cannot be read ({unread.strerror})"
    if start.startswith(b"PK"):
        return "it looks like one that is damaged, or like another archive; fetch or save it again"
    if start.startswith(b"\x80"):
        return f"it looks like a pickle, which runs code when it is opened; {_REMEDY}"
    kind = next((kind for sign, kind in _SIGNS.items() if start.startswith(sign)), None)
    kind = kind or ("something else" if b"\0" in start else "text")
    looks = f"it looks like {kind}" if start else "it is empty"
    return f"{looks}; name the .pth or .safetensors file that the weights are in"


def _classes(data: Any) -> tuple[str, ...] | None:
    """The class names in the `meta` of mmdetection 2 (`CLASSES`) and 3 (`dataset_meta.classes`)."""
    meta = data.get("meta") if isinstance(data, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    described = meta.get("dataset_meta")
    found = described.get("classes") if isinstance(described, Mapping) else meta.get("CLASSES")
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        return None
    return tuple(found) or None


def _check(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what is no plain array: a stride of 0 makes gigabytes out of one number."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError(f"{path}: {name} is not a plain tensor of {tuple(tensor.shape)} numbers")
