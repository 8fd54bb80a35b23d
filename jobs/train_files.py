"""What a training leaves in its output, for whoever reads it: nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.errors import Refused
from pipeline.storage import NotFound, Store

JOB_KEY = "train.json"
SUMMARY_KEY = "summary.json"
MEASURED_KEY = "measured.jsonl"
BEST_KEY = "best.json"
BEST_WEIGHTS = "best.safetensors"
LAST_WEIGHTS = "last.safetensors"
SIGN_KEY = "_progress/training.json"
"""What a training at work last said of itself."""
LOG_FOLDER = "log/"
"""`log/<step>.jsonl`: the steps up to that checkpoint, a line each."""
NOT_LOSSES = ("step", "lr", "norm", "skipped", "seconds", "wait")
"""What a line of the log says beside the step's losses."""


def standing(store: Store) -> dict[str, Any] | None:
    """The output's `train.json`; None where no training ever ran. Raises Refused for one that is not ours."""
    try:
        record = json.loads(store.get(JOB_KEY))
    except NotFound:
        return None
    except ValueError as error:
        raise Refused(f"{store.join(JOB_KEY)} is not JSON ({error}); name another output") from None
    if not isinstance(record, dict):
        raise Refused(f"{store.join(JOB_KEY)} was not written by this program; name another output")
    return record


def has(store: Store, key: str) -> bool:
    """Whether an object is there. Raises StoreError when the store cannot be reached."""
    try:
        store.head(key)
    except NotFound:
        return False
    return True


def read_log(store: Store) -> Iterator[dict[str, float]]:
    """Every step of a training up to its last checkpoint."""
    last = 0
    for info in store.list(LOG_FOLDER):
        for said in lines_of(store, info.key):
            if said["step"] > last:
                last = int(said["step"])
                yield said


def lines_of(store: Store, key: str) -> list[dict[str, float]]:
    """The objects of a file of JSON lines; none where the file is not there."""
    try:
        return [json.loads(line) for line in store.get(key).decode().splitlines()]
    except NotFound:
        return []
