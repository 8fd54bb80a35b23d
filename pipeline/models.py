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
        self._probed = False

    def _probe(self) -> None:
        """Check once, before anything is written, that the store keeps create-only promises."""
        if not self._probed:
            self.store.probe()
            self._probed = True

    def current(self) -> Current | None:
        """The version in use; None where nothing was promoted. Raises ModelsError, StoreError."""
        moves = sorted(_numbers(self.store, "moves/"))
        return self._move(moves[-1]) if moves else None

    def add(self, weights: bytes, record: Mapping[str, Any]) -> int:
        """Keep a weights file as the next version; returns its number. The same file keeps its number.

        Raises StoreError, also where the store would write over a version that another adds meanwhile.
        """
        self._probe()
        digest = hashlib.sha256(weights).hexdigest()
        taken = sorted(_numbers(self.store, "versions/"))
        version = next((v for v in taken if self._is(v, digest)), None)
        if version is None:
            version = taken[-1] + 1 if taken else 1
            said = {**record, "version": version, "sha256": digest, "created": _now()}
            # The record first: whoever creates it owns the number, and its weights follow. One that stands
            # and is of these weights is ours, whose answer was lost, or another's who adds the same file.
            while not self.store.create(record_key(version), _text(said)) and not self._is(version, digest):
                version += 1
                said["version"] = version
        self._complete(version, weights)
        return version

    def _is(self, version: int, digest: str) -> bool:
        return _read(self.store, record_key(version)).get("sha256") == digest

    def _complete(self, version: int, weights: bytes) -> None:
        """Put a version's weights where they are not there: who made its record may have died before."""
        try:
            self.store.head(weights_key(version))
        except NotFound:
            self.store.create(weights_key(version), weights)

    def move(self, version: int, before: Current | None, why: str, rollback: bool = False) -> Current:
        """Make a version the current one, if `before` still is. Raises ModelsError where it is not.

        `rollback`: it was current before, and what came after it is taken back. Raises StoreError as `add`.
        """
        self._probe()
        record = _read(self.store, record_key(version))
        number = before.move + 1 if before else 1
        made = {
            "move": number,
            "version": version,
            "sha256": record["sha256"],
            "file": weights_key(version),
            "before": before.version if before else None,
            "rollback": rollback,
            "why": why,
            "at": _now(),
        }
        text = _text(made)
        # After a lost answer the request is made again, and finds our own move.
        if not self.store.create(move_key(number), text) and self.store.get(move_key(number)) != text:
            raise ModelsError(
                f"{self.store.uri}: the current version has changed meanwhile; look at it and try again"
            )
        self.repeat()
        return Current(number, version, str(record["sha256"]))

    def repeat(self) -> None:
        """Have `current.json` say what the highest move says; a crash or a race can leave it behind."""
        while moves := _numbers(self.store, "moves/"):
            # Read anew after each writing: another's move may have come between.
            text = self.store.get(move_key(max(moves)))
            if self._repeated() == text:
                return
            self.store.put(CURRENT, text)

    def _repeated(self) -> bytes | None:
        try:
            return self.store.get(CURRENT)
        except NotFound:
            return None

    def before(self, current: Current) -> int:
        """The version that was current before the present one was promoted; rollbacks are taken back.

        So two rollbacks go back by two. Raises ModelsError where there is none.
        """
        line: list[int] = []
        for number in range(1, current.move + 1):
            version = self._move(number).version
            if self._is_rollback(number) and version in line:
                while line[-1] != version:
                    line.pop()
            elif line[-1:] != [version]:
                line.append(version)
        if len(line) < 2:
            raise ModelsError(
                f"{self.store.uri}: version {current.version} is the first; there is none before it. --to "
                "names any version"
            )
        return line[-2]

    def _is_rollback(self, number: int) -> bool:
        move = _read(self.store, move_key(number))
        # Of versions that had no field for it.
        return bool(move.get("rollback", str(move.get("why")).startswith("rollback")))

    def record(self, version: int) -> dict[str, Any]:
        """What was said of a version when it was added. Raises ModelsError where it does not exist."""
        return _read(self.store, record_key(version))

    def _move(self, number: int) -> Current:
        move = _read(self.store, move_key(number))
        try:
            return Current(number, int(move["version"]), str(move["sha256"]))
        except (KeyError, ValueError, TypeError):
            raise ModelsError(f"{self.store.join(move_key(number))} is no record of a move") from None


def weights_key(version: int) -> str:
    """Where a version's weights lie."""
    return f"versions/{version:06d}.safetensors"


def record_key(version: int) -> str:
    """Where a version's record lies."""
    return f"versions/{version:06d}.json"


def move_key(number: int) -> str:
    """Where the record of a promotion or rollback lies."""
    return f"moves/{number:06d}.json"


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


def _text(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=2).encode()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
