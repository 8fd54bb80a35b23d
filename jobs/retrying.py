"""Doing some inputs of an output's shards again: which they are, how it goes, what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from jobs.driving import REPEAT, Drive
from jobs.errors import Incomplete, first_of
from jobs.limits import Limits
from jobs.progress import SEGMENTING, Doing
from jobs.spec import SegmentSpec
from jobs.tally import Tally
from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.results import ShardResult
from pipeline.retry import Retry, count_culprits, request
from pipeline.settings import SegmentSettings
from pipeline.storage import Store


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    statuses: frozenset[str]
    poison: bool = False
    """Also images that killed their worker."""
    dry_run: bool = False
    local: bool = False

    def __str__(self) -> str:
        """In words, of inputs: `ended corrupt or failed`."""
        ended = f"ended {' or '.join(sorted(self.statuses))}"
        if "failed" in self.statuses and not self.poison:
            ended += ", without those that killed their worker (--poison takes them too)"
        return ended


@dataclass
class Retrying:
    """What is to be done again in one output; the ledger is read when this is made."""

    store: Store
    settings: SegmentSettings
    spec: SegmentSpec
    wanted: Wanted
    console: Console
    doing: Doing = SEGMENTING
    asked: Store | None = None
    """Where a request to cancel is left, if not in `store`."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store)
        self.before = {commit.shard: commit for commit in self.ledger.records()}
        self.chosen = self._chosen()
        """How many inputs of which shards are to be done again."""
        self._note: str | None = None

    def _chosen(self) -> dict[str, int]:
        wanted = self.wanted
        spared = count_culprits(self.store) if "failed" in wanted.statuses and not wanted.poison else {}
        chosen = {
            shard: sum(commit.counts.get(status, 0) for status in wanted.statuses) - spared.get(shard, 0)
            for shard, commit in self.before.items()
        }
        return {shard: number for shard, number in chosen.items() if number > 0}

    def tell(self, noun: str) -> None:
        """Say how many there are of what `noun` names."""
        images, shards = sum(self.chosen.values()), len(self.chosen)
        self.console.print(f"{many(images, noun)} in {many(shards, 'shard')} {self.wanted}", highlight=False)

    def idle(self, more: bool = False) -> bool:
        """Whether nothing is to be done or changed, and says so; `more`: there is other work than its own."""
        if self.wanted.dry_run:
            self.console.print(table(self.before.values()))
            self.console.print("nothing was changed; without --dry-run they are done again", highlight=False)
        elif not self.chosen and not more:
            self.console.print("nothing to retry", highlight=False)
        else:
            return False
        return True

    @property
    def workers(self) -> int:
        """Of the pool, at most; 0 for this process."""
        return 0 if self.wanted.local else min(self.spec.workers.most, max(1, len(self.chosen)))

    def run(self) -> dict[str, object]:
        """Do the shards and print what came of it; returns what this run did.

        The same request goes on until `done`. Raises Incomplete when shards are left, and what a run raises.
        """
        revisions = {shard: self.before[shard].revision for shard in self.chosen}
        self._note, retry = request(self.store, self.wanted.statuses, revisions, self.wanted.poison)
        if resumed := len(self.chosen) - len(retry.revisions):
            self.console.print(f"{many(resumed, 'shard')} done by a retry that was cut off", highlight=False)
        this_run: dict[str, object] = {"images": 0}
        if retry.revisions:
            this_run = self._drive(retry)
        self.console.print(table(self.before.values(), self.ledger.records()))
        demand_none(retry.left(self.ledger), "retried")
        return this_run

    def done(self) -> None:
        """Take the request away: all that it is about is complete."""
        if self._note is not None:
            self.store.delete([self._note])

    def _drive(self, retry: Retry) -> dict[str, object]:
        shards = sorted(retry.revisions)
        total = sum(self.chosen[shard] for shard in shards)
        drive = Drive(self.store, self.settings, shards, self.workers, Tally(), total, self.console, retry)
        drive.doing, drive.asked, drive.least = self.doing, self.asked, self.spec.workers.least
        drive.limits = Limits.of(self.spec).after(Tally.of(self.before.values()), self.settings.gpus)
        drive.count = self._redone
        return {**drive.run(), "retry": sorted(self.wanted.statuses)}

    def _redone(self, result: ShardResult) -> ShardResult:
        """A shard's result without the rows that were taken over."""
        before = self.before[result.shard]
        kept = Counter(before.counts)
        for status in self.wanted.statuses:
            kept[status] = 0
        counts = Counter(result.counts)
        counts.subtract(kept)
        spared = sum(counts.values()) - self.chosen[result.shard]
        counts["failed"] -= spared  # images that are known to kill their worker stay as they were
        classes = Counter(result.classes)
        classes.subtract(before.classes)
        return replace(
            result,
            counts={status: number for status, number in counts.items() if number > 0},
            classes={name: number for name, number in classes.items() if number > 0},
            instances=result.instances - before.instances,
            bytes=max(0, result.bytes - before.bytes),
        )


def demand_none(left: Sequence[str], verb: str) -> None:
    """Raise Incomplete, naming some, when shards are left."""
    if left:
        raise Incomplete(f"{many(len(left), 'shard')} not {verb} ({first_of(left)}); {REPEAT}")


def table(before: Iterable[Commit], after: Iterable[Commit] | None = None) -> Table:
    """How many inputs have which status, before and after."""
    counts: list[Mapping[str, int]] = [Tally.of(before).statuses]
    if after is not None:
        counts.append(Tally.of(after).statuses)
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("status", *("before", "after")[: len(counts)]):
        made.add_column(heading)
    for name in sorted(set().union(*counts)):
        made.add_row(name, *(f"{each.get(name, 0):,}" for each in counts))
    return made
