"""A worker's sign of life says where each shard stands and since when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import progress as module
from pipeline.clock import Clock
from pipeline.progress import Progress, progress_key
from pipeline.steps import reached
from pipeline.storage import NotFound, Store

SHARD = "0000-000003"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "out"))


@pytest.fixture
def progress(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Progress]:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    made = Progress(store, "w")
    yield made
    made.close()


def said(store: Store, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The shards of the next sign of which the condition holds."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shards: dict[str, Any] = json.loads(store.get(progress_key("w")))["shards"]
        except NotFound:
            continue
        if condition(shards):
            return shards
    raise AssertionError("no such sign came")


def test_the_last_step_is_shown_and_since_when(store: Store, progress: Progress) -> None:
    clock, began = Clock(SHARD), time.time()
    with progress.shard(SHARD, 40, clock):
        shard = said(store, lambda shards: SHARD in shards)[SHARD]
        assert began <= shard["since"] <= shard["step_since"] <= time.time()
        assert (shard["images"], shard["done"], shard["step"], shard["decoding"]) == (40, 0, None, 0)
        with clock.stage("decode"), clock.stage("decode"):
            shard = said(store, lambda shards: shards[SHARD]["decoding"] == 2)[SHARD]
            assert shard["step"] == "decode"
        ended = time.time()
        progress.advance(SHARD, 7)
        reached("infer", SHARD)
        reached("encode", "0000-000004")  # of another worker in this process
        shards = said(store, lambda shards: shards[SHARD]["step"] == "infer")
        assert list(shards) == [SHARD]
        assert (shards[SHARD]["done"], shards[SHARD]["decoding"]) == (7, 0)
        assert ended <= shards[SHARD]["step_since"] <= time.time()
    said(store, lambda shards: shards == {})
    reached("committed", SHARD)  # after its end: nobody minds
