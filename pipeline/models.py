"""Versions of a model below a URI, and which of them is the current one.

    <name>/versions/<version>.safetensors, .json   a version's weights and what it reached; create-only
    <name>/moves/<number>.json                     each promotion and rollback, create-only: the highest rules
    <name>/current.json                            the same as the highest move, under a name that stays

`current.json` may stand wherever a weights file is named.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.storage import NotFound, Store, StoreOptions

CURRENT = "current.json"


class ModelsError(Exception):
    """A model's folder that cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Current:
    """The version in use."""

    move: int
    """How many promotions and rollbacks there have been."""
    version: int
    sha256: str

    @property
    def file(self) -> str:
        """Its weights, below the model's folder."""
        return weights_key(self.version)


class Models:
    """One model's folder."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def current(self) -> Current | None:
        """The version in use; None where nothing was promoted. Raises ModelsError, StoreError."""
        moves = sorted(_numbers(self.store, "moves/"))
        return self._move(moves[-1]) if moves else None

    def add(self, weights: bytes, record: Mapping[str, Any]) -> int:
        """Keep a weights file as the next version; returns its number. The same file keeps its number."""
        digest = hashlib.sha256(weights).hexdigest()
        taken = sorted(_numbers(self.store, "versions/"))
        for version in taken:
            if _read(self.store, record_key(version)).get("sha256") == digest:
                return version
        version = taken[-1] + 1 if taken else 1
        said = {**record, "version": version, "sha256": digest, "created": _now()}
        # The record first: whoever creates it owns the number, and its weights follow.
        while not self.store.create(record_key(version), json.dumps(said, indent=2).encode()):
            version += 1
            said["version"] = version
        self.store.create(weights_key(version), weights)
        return version

    def move(self, version: int, before: Current | None, why: str) -> Current:
        """Make a version the current one, if `before` still is. Raises ModelsError where it is not."""
        record = _read(self.store, record_key(version))
        number = before.move + 1 if before else 1
        made = {
            "move": number,
            "version": version,
            "sha256": record["sha256"],
            "file": weights_key(version),
            "before": before.version if before else None,
            "why": why,
            "at": _now(),
        }
        text = json.dumps(made, indent=2).encode()
        if not self.store.create(f"moves/{number:06d}.json", text):
            raise ModelsError(
                f"{self.store.uri}: the current version has changed meanwhile; look at it and try again"
            )
        self.store.put(CURRENT, text)
        return Current(number, version, str(record["sha256"]))

    def before(self, current: Current) -> int:
        """The version that the current one took the place of. Raises ModelsError where there is none."""
        move = _read(self.store, f"moves/{current.move:06d}.json")
        if move.get("before") is None:
            raise ModelsError(
                f"{self.store.uri}: version {current.version} is the first; there is none before"
            )
        return int(move["before"])

    def record(self, version: int) -> dict[str, Any]:
        """What was said of a version when it was added. Raises ModelsError where it does not exist."""
        return _read(self.store, record_key(version))

    def _move(self, number: int) -> Current:
        move = _read(self.store, f"moves/{number:06d}.json")
        try:
            return Current(number, int(move["version"]), str(move["sha256"]))
        except (KeyError, ValueError, TypeError):
            raise ModelsError(
                f"{self.store.join(f'moves/{number:06d}.json')} is no record of a move"
            ) from None


def weights_key(version: int) -> str:
    """Where a version's weights lie."""
    return f"versions/{version:06d}.safetensors"


def record_key(version: int) -> str:
    """Where a version's record lies."""
    return f"versions/{version:06d}.json"


def resolved(uri: str, options: StoreOptions) -> str:
    """The weights that a `current.json` names; any other name as it is. Raises ModelsError, StoreError."""
    parent, _, name = uri.rpartition("/")
    if name != CURRENT:
        return uri
    found = Models(Store.open(parent or ".", options)).current()
    if found is None:
        raise ModelsError(
            f"{uri}: no version was promoted there; do so with `condinst promote`, or name a weights file"
        )
    return f"{parent}/{found.file}" if parent else found.file


def _numbers(store: Store, folder: str) -> set[int]:
    names = (info.key.removeprefix(folder) for info in store.list(folder))
    return {int(name[:6]) for name in names if name.endswith(".json") and name[:6].isdigit()}


def _read(store: Store, key: str) -> dict[str, Any]:
    try:
        record = json.loads(store.get(key))
    except NotFound:
        raise ModelsError(f"{store.join(key)}: there is no such version") from None
    except ValueError as error:
        raise ModelsError(f"{store.join(key)} is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ModelsError(f"{store.join(key)} was not written by this program")
    return record


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
