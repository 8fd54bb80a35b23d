"""A tiny job on real storage: planned, claimed, and ready to be run by whatever engine a test is about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from condinst.weightsfile import digest
from pipeline import tables
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource, Plan, freeze
from pipeline.settings import SegmentSettings
from pipeline.storage import Store


@dataclass
class Job:
    """A claimed output with its frozen plan."""

    settings: SegmentSettings
    store: Store
    plan: Plan

    @property
    def pending(self) -> list[str]:
        return Ledger(self.store).pending([self.plan])

    @property
    def run(self) -> tables.Run:
        return tables.open(self.store.uri)

    def rows(self) -> tuple[Any, Any]:
        """Both tables in the form in which equal jobs are equal."""
        return tables.canonical(self.run.images()), tables.canonical(self.run.instances())


def settings_of(source: InputSource | str, model: Path, output: str, **changes: Any) -> SegmentSettings:
    source = InputSource(str(source)) if isinstance(source, str | Path) else source
    settings = SegmentSettings(
        output=output,
        sources=(source,),
        weights=str(model),
        model_digest=digest(model),
        detect={"score_threshold": 0.5},
        batch_images=3,
    )
    return replace(settings, **changes)


def start(settings: SegmentSettings, shard_size: int = 4) -> Job:
    """What a driver does before it hands shards out."""
    store = Store.open(settings.output, settings.output_options)
    ledger = Ledger(store)
    ledger.start()
    ledger.claim(settings.job_record())
    plan = freeze(settings.sources, store, shard_size, 0)
    ledger.repair()
    return Job(settings, store, plan)
