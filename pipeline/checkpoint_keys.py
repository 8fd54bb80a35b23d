"""Where a training's checkpoints lie in its output; whoever only counts them needs no torch."""

from __future__ import annotations

from pipeline.storage import Store

FOLDER = "checkpoints/"


def steps_kept(store: Store) -> list[int]:
    """The steps whose state is kept, ascending. Raises StoreError."""
    return sorted(step_of(info.key) for info in store.records(FOLDER))


def record_key(step: int) -> str:
    """Key of the record that makes a checkpoint."""
    return f"{FOLDER}{step:09d}.json"


def step_of(key: str) -> int:
    """The step that a file's name begins with; 0 where it does not."""
    digits = key.removeprefix(FOLDER)[:9]
    return int(digits) if digits.isdigit() else 0
