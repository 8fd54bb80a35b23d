"""Reading safetensors files of ours. A file is input from outside, and is checked before it is read.

The header is bounded by the file's own size, the configuration is validated, and every tensor's name and
shape is compared with what it should be before a byte of data is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from condinst.config import Part

MODEL = "condinst-1"
"""Metadata `format` of a whole model's file."""
BACKBONE = "condinst-backbone-1"
"""Metadata `format` of a file with a backbone alone."""
_KINDS = {MODEL: "a whole model", BACKBONE: "a backbone alone"}
_CONFIG_BYTES = 1_000_000

AnyPart = TypeVar("AnyPart", bound=Part)


class WeightsError(Exception):
    """A weights file that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the header describes it."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it: `F32`, `BF16`, ..."""


def read_metadata(path: Path, wanted: str | None = MODEL) -> dict[str, str]:
    """A file's metadata, `format` being `wanted` (None: either of ours). Raises WeightsError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except OSError as error:
        raise unreadable(path, error) from None
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); "
            "a checkpoint of another project goes through `condinst weights convert` first"
        ) from None
    found = metadata.get("format")
    if found not in _KINDS:
        raise WeightsError(
            f"{path}: a safetensors file, but not one of ours (metadata `format` is {found!r}, expected "
            f"{wanted or MODEL!r}); `condinst weights convert` takes files of other projects"
        )
    if wanted is not None and found != wanted:
        raise WeightsError(f"{path}: holds {_KINDS[found]}; {_KINDS[wanted]} is needed here")
    return metadata


def unreadable(path: Path, error: OSError) -> WeightsError:
    """What to raise for a file that is there and cannot be read."""
    return WeightsError(
        f"{path}: cannot be read ({error.strerror or error}); check its permissions, or copy it anew"
    )


def is_ours(path: Path) -> bool:
    """Whether a file is a weights file of this project, of either kind."""
    try:
        return bool(read_metadata(path, wanted=None))
    except WeightsError:
        return False


def parse_config(path: Path, metadata: Mapping[str, str], kind: type[AnyPart]) -> AnyPart:
    """The configuration in a file's metadata. Raises WeightsError."""
    text = metadata.get("config", "")
    if len(text) > _CONFIG_BYTES:
        raise WeightsError(f"{path}: its configuration is {len(text)} bytes, more than {_CONFIG_BYTES}")
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: bad configuration at {place or 'its root'}: {first['msg']}") from None
    except (json.JSONDecodeError, RecursionError):
        raise WeightsError(f"{path}: its metadata `config` is not JSON") from None


def tensor_infos(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a file, from its header alone."""
    with safe_open(str(path), framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: TensorInfo(tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}


def read_state(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
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
