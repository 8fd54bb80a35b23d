"""What a weights file of ours says of itself, without its tensors and without torch.

A file is input from outside, and is checked before it is read: the header is bounded by the file's own size,
and the configuration is validated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from condinst.config import DEMO, BackboneFile, ModelConfig, Part

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


def read_config(path: str | Path) -> ModelConfig:
    """The configuration inside a model's file. Raises WeightsError."""
    found = resolve(path)
    return parse_config(found, read_metadata(found), ModelConfig)


def read_notes(path: str | Path) -> dict[str, str]:
    """What else a file of either kind says of itself: how and on what it was trained. Raises WeightsError."""
    metadata = read_metadata(resolve(path), wanted=None)
    return {k: v for k, v in metadata.items() if k not in ("format", "config")}


def read_backbone(path: str | Path) -> BackboneFile:
    """What a backbone's file fits, for building a model around it. Raises WeightsError."""
    found = resolve(path)
    return parse_config(found, read_metadata(found, BACKBONE), BackboneFile)


def read_metadata(path: Path, wanted: str | None = MODEL) -> dict[str, str]:
    """A file's metadata, `format` being `wanted` (None: either of ours). Raises WeightsError."""
    try:
        with safe_open(str(path), framework="np") as file:
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
    with safe_open(str(path), framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: TensorInfo(tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}
