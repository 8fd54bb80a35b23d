"""`condinst weights show`: what a weights file says of itself."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from condinst import weights, weightsfile
from condinst.config import ModelConfig
from condinst.weightsfile import MODEL, read_metadata, tensor_infos
from pipeline.storage import StoreOptions
from pipeline.weights import fetch_weights

_MOST_CLASSES = 20


def show_weights(name: str, *, as_json: bool = False, console: Console | None = None) -> None:
    """Print what the weights file `name` (demo, a path or a URI) holds. Raises WeightsError or StoreError."""
    described = describe(name)
    if as_json:
        print(json.dumps(described, indent=2))
    else:
        print_rows([(key, _words(key, value)) for key, value in _flat(described)], console)


def describe(name: str) -> dict[str, Any]:
    """Everything a file says, as plain JSON values: kind, config, parameters, tensors, digest, notes."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = weightsfile.resolve(fetch_weights(name, StoreOptions(), Path(folder)))
        whole = read_metadata(path, wanted=None)["format"] == MODEL
        infos = tensor_infos(path)
        config = weightsfile.read_config(path) if whole else weightsfile.read_backbone(path)
        return {
            "file": name,
            "kind": "model" if whole else "backbone",
            "sha256": weightsfile.digest(path),
            "bytes": path.stat().st_size,
            "dtype": dict(Counter(info.dtype for info in infos.values())),
            "tensors": len(infos),
            **({"parameters": weights.num_parameters(config)} if isinstance(config, ModelConfig) else {}),
            "config": config.model_dump(mode="json"),
            "notes": weightsfile.read_notes(path),
        }


def print_rows(rows: Sequence[tuple[str, str]], console: Console | None = None) -> None:
    """Print (name, text) pairs, a line each."""
    console = console or Console()
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        # Wrapped by the terminal, if at all: a digest stays in one piece for whoever copies it.
        console.print(
            f"[bold]{escape(f'{name:{width}}')}[/]  {escape(text)}", highlight=False, soft_wrap=True
        )


def _flat(described: dict[str, Any]) -> list[tuple[str, Any]]:
    """The entries with those of `config` and `notes` in their place."""
    flat = []
    for key, value in described.items():
        flat += list(value.items()) if key in ("config", "notes") else [(key, value)]
    return flat


def _words(key: str, value: Any) -> str:
    if key == "classes":
        more = f", and {len(value) - _MOST_CLASSES} more" if len(value) > _MOST_CLASSES else ""
        return f"{len(value)}: {', '.join(value[:_MOST_CLASSES])}{more}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words('', item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
