"""A training's checkpoints in an output: tensors as safetensors, the rest as JSON; the newest rules.

`checkpoints/<step>-<run>.safetensors` is put first; then `checkpoints/<step>.json`, which names it and its
digest, is put create-only. So a checkpoint is there as a whole or not at all, and of two runs that write to
one output by mistake the second is told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.checkpoint_keys import FOLDER, record_key, step_of, steps_kept
from pipeline.storage import NotFound, Store


class CheckpointError(Exception):
    """A checkpoint that cannot be used or written; the message says which and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """What was put with it, plain JSON values."""


class Checkpoints:
    """Those of one output, as one run of a training sees them."""

    def __init__(self, store: Store, run: str, keep: int = 2) -> None:
        self._store, self._run, self._keep = store, run, keep

    def latest(self) -> Checkpoint | None:
        """The newest, checked against its digest; None where there is none.

        Raises CheckpointError for one that is damaged, StoreError.
        """
        if not (steps := steps_kept(self._store)):
            return None
        key = record_key(steps[-1])
        try:
            record = json.loads(self._store.get(key))
            data = self._store.get(FOLDER + str(record["file"]))
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                raise ValueError(f"{record['file']} is not the file that was put")
            return Checkpoint(steps[-1], load(data), dict(record["state"]))
        except (ValueError, KeyError, TypeError, SafetensorError, NotFound) as error:
            raise CheckpointError(
                f"{self._store.join(key)} is damaged ({error}); remove it to go on from the checkpoint before"
            ) from None

    def put(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Keep the state after a step; older ones go. Raises CheckpointError where another run has put it."""
        data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        name = f"{step:09d}-{self._run}.safetensors"
        self._store.put(FOLDER + name, data)
        record = {"run": self._run, "file": name, "sha256": hashlib.sha256(data).hexdigest(), "state": state}
        key = record_key(step)
        if not self._store.create(key, json.dumps(record).encode()):
            standing = json.loads(self._store.get(key))
            if standing.get("run") != self._run:
                self._store.delete([FOLDER + name])
                raise CheckpointError(
                    f"{self._store.join(key)} was written by another run of this training, which seems "
                    "to be at work still; let one of them go on alone"
                )
        self._prune()

    def _prune(self) -> None:
        """Remove all but the newest: records first, so that none names a file that is gone."""
        steps = steps_kept(self._store)
        kept = steps[-self._keep :]
        self._store.delete([record_key(step) for step in steps if step not in kept])
        old = [
            info.key
            for info in self._store.list(FOLDER)
            if info.key.endswith(".safetensors") and step_of(info.key) < kept[0]
        ]
        self._store.delete(old)
