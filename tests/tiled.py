"""A tiled job on real storage, run stage by stage by whatever engine a test is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condinst.config import DEMO
from condinst.weightsfile import demo_path, digest
from pipeline import tables
from pipeline.engine import run_local
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource
from pipeline.plan import Plan
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.planning import freeze_tiled, open_windows
from pipeline.tiled.settings import Tiling
from tests.job import settings_of

Run = Callable[[SegmentSettings, Sequence[str]], None]


@dataclass
class TiledJob:
    """A claimed output with its frozen plan."""

    settings: SegmentSettings
    store: Store
    plan: Plan

    @property
    def windows(self) -> Store:
        return open_windows(self.store)

    def do(self, run: Run | None = None, order: Callable[[list[str]], list[str]] = list) -> None:
        """Both stages, the shards of each in some order."""
        run = run or local
        assert self.plan.windows is not None
        run(self.settings.of_windows(), order(self.plan.windows.shard_ids()))
        run(self.settings.of_stitching(), order(self.plan.shard_ids()))

    @property
    def run(self) -> tables.Run:
        return tables.open(self.store.uri)

    def rows(self) -> tuple[Any, Any]:
        """Both tables in the form in which equal jobs are equal."""
        return tables.canonical(self.run.images()), tables.canonical(self.run.instances())


def tiled_job(
    source: InputSource | str | Path,
    output: str | Path,
    model: Path | None = None,
    shard_size: int = 4,
    tiling: Tiling | None = None,
    **changes: Any,
) -> TiledJob:
    """What a driver does before it hands shards out; without `model`, of the demo weights."""
    settings = settings_of(source, model or demo_path(), str(output), **changes)
    if model is not None:
        # Weights of chance see things the size of a window everywhere; a few of them are enough.
        settings = replace(settings, detect={"score_threshold": 0.5, "max_instances": 10})
    else:
        settings = replace(settings, weights=DEMO, model_digest=digest(demo_path()))
    settings = replace(settings, tiling=tiling or Tiling(size=256, overlap=64))
    assert settings.tiling is not None
    store = Store.open(settings.output, settings.output_options)
    Ledger(store).start()
    plan = freeze_tiled(settings.sources, store, shard_size, 0, settings.tiling, settings.limits)
    for place in (store, open_windows(store)):
        Ledger(place).claim(settings.job_record())
    return TiledJob(settings, store, plan)


def local(settings: SegmentSettings, shards: Sequence[str]) -> None:
    """In this process; a shard's error is the test's."""
    errors: list[str] = []
    run_local(settings, shards, on_result=lambda result: errors.extend([result.error] * bool(result.error)))
    assert not errors, errors
