"""The first stage of a tiled job: its windows, segmented shard by shard into an output of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from jobs.allowance import Allowance, too_many
from jobs.driving import REPEAT, Drive
from jobs.errors import Incomplete, TooManyFailed, first_of
from jobs.limits import Limits
from jobs.progress import Doing
from jobs.tally import Tally
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.plan import Plan, window_plans
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.planning import install_windows, open_windows

SEGMENTING_WINDOWS = Doing("segmenting", "window")
STITCHING = Doing("stitching", "raster")


@dataclass
class WindowStage:
    """What is left of a job's windows, and how it is done."""

    output: Store
    """The job's own output."""
    settings: SegmentSettings
    plans: Sequence[Plan]
    """Those of the job, each with its windows'."""
    job: Mapping[str, object]
    console: Console
    allowance: Allowance
    """The job's."""

    def __post_init__(self) -> None:
        self.store = open_windows(self.output)
        self.ledger = Ledger(self.store)
        self.window_plans = window_plans(self.plans)
        self.total = sum(plan.images for plan in self.window_plans)
        self.allowance = self.allowance.of_windows(self.total)

    def pending(self) -> list[str]:
        """Make the stage's output this job's, and say which of its shards are not committed."""
        for plan in self.plans:
            install_windows(self.output, plan)
        self.ledger.claim(self.job)
        self.ledger.repair()
        return self.ledger.pending(self.window_plans)

    def run(
        self, shards: Sequence[str], workers: int, least: int | None, limits: Limits
    ) -> dict[str, object]:
        """Segment the shards; returns what was done, as `Drive.run`.

        Raises Incomplete when some could not be, TooManyFailed when more of them ended badly than may, and
        what `Drive.run` does.

        `workers`, `least` and `limits` are as `Drive` has them.
        """
        there = self.ledger.standing()
        tally = Tally.of(self.ledger.records(there))
        settings = self.settings.of_windows()
        drive = Drive(self.store, settings, shards, workers, tally, self.total, self.console)
        drive.doing, drive.asked = SEGMENTING_WINDOWS, self.output
        drive.least, drive.limits = least, limits.after(tally, settings.gpus)
        drive.enough, drive.standing = self.allowance.watch, there
        del there  # the drive lets it go
        try:
            done = drive.run()
        except TooManyFailed:
            self.demand_few_bad(f"the job was stopped, {self.output.uri} keeps what is committed")
            raise
        missing = self.ledger.pending(self.window_plans)
        if missing:
            raise Incomplete(
                f"missing: {many(len(missing), 'shard')} of windows ({first_of(missing)}); {REPEAT}"
            )
        return done

    def demand_few_bad(self, remedy: str) -> None:
        """Raise TooManyFailed where more windows ended badly than may; it says `remedy` too."""
        if self.allowance.most is not None and self.allowance.exceeded(tally := self.tally()):
            raise too_many(self.ledger, self.allowance, tally, remedy)

    def tally(self) -> Tally:
        """What the windows come to so far."""
        return Tally.of(self.ledger.records())
