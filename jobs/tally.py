"""What commit records and shard results add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from pipeline.commit import Commit


class Account(Protocol):
    """What a commit record and a shard's result both say."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Inputs by status."""
        ...

    @property
    def classes(self) -> Mapping[str, int]:
        """Instances by class."""
        ...

    @property
    def instances(self) -> int:
        """Instances."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes of input."""
        ...

    @property
    def capped(self) -> int:
        """Inputs, or their windows, with as many instances as a model may find in one."""
        ...


@dataclass
class Busy:
    """One worker's time inside the model, in Unix seconds from its first batch to its last."""

    first: float
    last: float
    seconds: float = 0.0
    images: int = 0

    @property
    def share(self) -> float:
        """Part of the time between first and last batch that was spent inside the model, 0..1."""
        return min(1.0, self.seconds / (self.last - self.first)) if self.last > self.first else 1.0


@dataclass
class Tally:
    """Counts over shards; two tallies of the same shards are equal in whatever order they came."""

    shards: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    instances: int = 0
    bytes: int = 0
    capped: int = 0
    splits: int = 0
    """Batches that went through the model in parts."""
    seconds: dict[str, float] = field(default_factory=dict)
    workers: dict[str, Busy] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Inputs accounted for."""
        return self.statuses.total()

    def add(self, account: Account) -> None:
        """Count one shard."""
        self.shards += 1
        self.statuses.update(account.counts)
        self.classes.update(account.classes)
        self.instances += account.instances
        self.bytes += account.bytes
        self.capped += account.capped

    def add_commit(self, commit: Commit) -> None:
        """Count a committed shard with what it cost its worker."""
        self.add(commit)
        work = commit.work
        self.splits += work.splits
        for stage, spent in work.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        if work.first is not None and work.last is not None:
            busy = self.workers.setdefault(work.worker, Busy(work.first, work.last))
            busy.first, busy.last = min(busy.first, work.first), max(busy.last, work.last)
            busy.seconds += work.busy
            busy.images += sum(commit.counts.values()) if work.images is None else work.images

    @classmethod
    def of(cls, commits: Iterable[Commit]) -> Self:
        """Everything that these records say."""
        tally = cls()
        for commit in commits:
            tally.add_commit(commit)
        return tally
