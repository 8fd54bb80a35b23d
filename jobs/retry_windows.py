"""`condinst retry` of a tiled output: windows that ended badly, then the rasters that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console

from jobs.driving import Drive
from jobs.limits import Limits
from jobs.retrying import Retrying, Wanted, demand_none, table
from jobs.spec import SegmentSpec
from jobs.tally import Tally
from jobs.windows import SEGMENTING_WINDOWS, STITCHING
from pipeline.engine import cluster
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.plan import Plan
from pipeline.retry import Retry
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.again import outdated_shards
from pipeline.tiled.planning import open_windows
from pipeline.tiled.refused import refused_as


@dataclass
class RetryingWindows:
    """A retry of both stages. Whatever cuts it off, the same command goes on.

    Which rasters are to be stitched again needs no note: a stitch shard's record tells which revisions of
    its windows it was made of.
    """

    store: Store
    """The job's own output."""
    settings: SegmentSettings
    spec: SegmentSpec
    wanted: Wanted
    console: Console
    plans: Sequence[Plan]

    def run(self) -> dict[str, object] | None:
        """Do it; returns what this run did, None where nothing was to be done or nothing is to be changed.

        Raises Incomplete when shards are left, and what a run raises.
        """
        store = open_windows(self.store)
        if not self.wanted.dry_run:
            Ledger(store).repair()
        windows = Retrying(store, self.settings.of_windows(), self.spec, self.wanted, self.console)
        windows.doing, windows.asked = SEGMENTING_WINDOWS, self.store
        windows.tell("window")
        self._tell_refused()
        if windows.idle(more=bool(outdated_shards(self.store, self.plans))):
            return None
        # One cluster for both stages: starting Ray takes seconds.
        least = min(self.spec.workers.least, windows.workers)
        with cluster(windows.settings, least) if windows.workers else nullcontext():
            this_run = windows.run()
            self._stitch()
        windows.done()
        return this_run

    def _stitch(self) -> None:
        """Stitch the rasters whose windows were done again since they were stitched."""
        outdated = outdated_shards(self.store, self.plans)
        if not outdated:
            return
        ledger = Ledger(self.store)
        done = ledger.revisions()
        before = list(ledger.records({shard: done[shard] for shard in outdated}))
        retry = Retry(self.wanted.statuses, {shard: done[shard] for shard in outdated})
        workers = 0 if self.wanted.local else min(self.spec.workers.most, len(outdated))
        rasters = Tally.of(before).images
        drive = Drive(
            self.store, self.settings.of_stitching(), outdated, workers, Tally(), rasters, self.console, retry
        )
        drive.doing, drive.least = STITCHING, self.spec.workers.least
        drive.limits = Limits.of(self.spec).after(Tally.of(before), 0)
        drive.run()
        done = ledger.revisions()
        after = ledger.records({shard: done[shard] for shard in outdated})
        self.console.print(table(before, after))
        demand_none(outdated_shards(self.store, self.plans), "stitched")

    def _tell_refused(self) -> None:
        """Say which rasters a retry cannot help: those whose headers could not be used."""
        if refused := refused_as(self.store, self.plans, self.wanted.statuses):
            self.console.print(
                f"{many(refused, 'raster')} ended so by the header, when the job was planned, without "
                "windows: once mended, a new input (`input.mode: new`)",
                style="yellow",
                highlight=False,
            )
