"""A run's images in plan order, straight from its shards' files: pages that need no index.

Which shards there are is known when the run is opened. How many images each has, its commit record says, and
records come in from the first shard on; the images before the last known one can be shown at once.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.tally import Tally
from pipeline.commit import Commit
from pipeline.rowmasks import combined
from pipeline.tables import Run

IMAGES = ("image_id", "status", "error", "width", "height", "instances")
INSTANCES = ("image_id", "instance_id", "category", "score")
FIRST = 500
"""Images whose records are read before all others: as many as a page can have."""
_TOGETHER = 64
"""Of so few shards all records are read at once."""
_KEPT = 8
"""Shards whose images are in memory."""
_TOLD = 256
"""Records after which what they say is told."""


N = TypeVar("N", bound=np.generic)
Places = NDArray[np.int32]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """What the records of the first shards say."""

    commits: tuple[Commit, ...] = ()
    firsts: tuple[int, ...] = (0,)
    """Images before each of these shards, and before the next one."""
    categories: tuple[str, ...] = ()
    """Classes; what is added comes last, so that a class keeps its place."""
    tally: Tally = field(default_factory=Tally)

    @property
    def images(self) -> int:
        """Images of these shards."""
        return self.firsts[-1]

    def with_(self, commits: Iterable[Commit]) -> Known:
        """The same with the records of the shards that follow."""
        more = list(commits)
        firsts = list(self.firsts)
        for commit in more:
            firsts.append(firsts[-1] + commit.files["images"].rows)
        names = {name for commit in more for name in commit.classes} - set(self.categories)
        known = (*self.commits, *more)
        return Known(known, tuple(firsts), (*self.categories, *sorted(names)), Tally.of(known))


class Shelf:
    """A run's shards. One thread learns, any ask."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.known = Known()
        self._kept: OrderedDict[int, _Part] = OrderedDict()
        self._reading = threading.Lock()

    @property
    def counted(self) -> bool:
        """Whether every shard's record is known."""
        return len(self.known.commits) == len(self.run.shards)

    def learn_first(self, stop: Callable[[], bool], told: Callable[[], None]) -> None:
        """Read the records of the first page's shards; `told` is called when they are known."""
        shards = self.run.shards
        if len(shards) <= _TOGETHER:
            self.known = Known().with_(self.run.records(shards))
        while self.known.images < FIRST and not stop() and not self.counted:
            at = len(self.known.commits)
            self.known = self.known.with_(self.run.records(shards[at : at + max(1, at)]))
        told()

    def learn(self, stop: Callable[[], bool], told: Callable[[], None]) -> None:
        """Read all other records; `told` is called when more is known."""
        if self.counted:
            return
        waiting: list[Commit] = []
        for commit in self._rest():
            if stop():
                return
            waiting.append(commit)
            if len(waiting) == max(_TOLD, len(self.known.commits)):  # each time as many again: it is copied
                self.known, waiting = self.known.with_(waiting), []
                told()
        self.known = self.known.with_(waiting)
        told()

    def _rest(self) -> Iterator[Commit]:
        """The records after the known ones, in plan order."""
        came: dict[str, Commit] = {}
        at = len(self.known.commits)
        for commit in self.run.read_commits():
            came[commit.shard] = commit
            while at < len(self.run.shards) and self.run.shards[at] in came:
                yield came.pop(self.run.shards[at])
                at += 1

    def _part(self, shard: int) -> _Part:
        with self._reading:
            if shard not in self._kept:
                commit = self.known.commits[shard]
                images = self.run.part(commit, "images", IMAGES)
                scores = self.run.part(commit, "instances", ("image_id", "score"))
                self._kept[shard] = _Part(images, *_extremes(_owners(images, scores), scores, len(images)))
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(shard)
            return self._kept[shard]

    def row(self, no: int) -> dict[str, Any] | None:
        """The image of that number; None for one that is not known."""
        return next(iter(self.rows(no, no + 1)), None)

    def rows(self, first: int, end: int) -> list[dict[str, Any]]:
        """Known images by number, `hits` among their columns: all their instances."""
        firsts = self.known.firsts
        found: list[dict[str, Any]] = []
        first, end = max(0, first), min(end, firsts[-1])
        while first < end:
            shard = bisect_right(firsts, first) - 1
            found += self._part(shard).rows(shard, firsts[shard], first - firsts[shard], end - first)
            first = firsts[shard + 1]
        return found

    def page(self, page: int, size: int, falling: bool) -> list[dict[str, Any]]:
        """A page in plan order, or from the end; the end is known when all is counted."""
        at = page * size
        if not falling:
            return self.rows(at, at + size)
        end = self.known.images - at
        return self.rows(end - size, end)[::-1]


@dataclass(frozen=True)
class _Part:
    """A shard's images with the greatest and the least score of each."""

    images: pa.Table
    best: Scores
    worst: Scores

    def rows(self, shard: int, before: int, start: int, length: int) -> list[dict[str, Any]]:
        """Some of them; `before` is the number of the first."""
        rows = []
        for place, row in enumerate(self.images.slice(start, length).to_pylist(), start):
            ends = {"best": _finite(self.best[place]), "worst": _finite(self.worst[place])}
            numbers = {"no": before + place, "shard": shard, "place": place}
            rows.append({**numbers, **row, **ends, "hits": row["instances"]})
        return rows


def listed(shard: int, known: Known, images: pa.Table, instances: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A shard's images and instances as the index has them, of its rows in the tables.

    Images get their number in the run and their place in the shard, and the best and the worst score of their
    instances; instances their image's number and, for their class, its place in `known.categories`.
    """
    first, count = known.firsts[shard], len(images)
    owners = _owners(images, instances)
    category = pc.index_in(
        instances["category"].cast(pa.string()), value_set=pa.array(known.categories, pa.string())
    )
    found = {
        "no": pa.array(owners.astype(np.int32) + first, pa.int32(), mask=owners < 0),
        "instance_id": instances["instance_id"],
        "category": category,
        "score": instances["score"],
    }
    place = np.arange(count, dtype=np.int32)
    ends = (pa.array(value, mask=~np.isfinite(value)) for value in _extremes(owners, instances, count))
    columns = {
        "no": pa.array(place + np.int32(first)),
        "shard": pa.array(np.full(count, shard, np.int32)),
        "place": pa.array(place),
        **{name: images[name] for name in IMAGES},
        **dict(zip(("best", "worst"), ends, strict=True)),
    }
    return pa.table(columns), pa.table(found)


# What follows makes no Arrow value of Python's or numpy's: that loads pandas, and the first page would wait.


def _owners(images: pa.Table, instances: pa.Table) -> Places:
    """(n,) the row in `images` of each instance; -1 for one of another image."""
    found = pc.index_in(instances["image_id"], value_set=images["image_id"].combine_chunks())
    found = combined(found)
    owners = _values(found, np.int32)
    if not found.null_count:
        return owners
    valid = np.unpackbits(np.frombuffer(found.buffers()[0], np.uint8), bitorder="little")
    return np.where(valid[found.offset :][: len(found)] == 1, owners, np.int32(-1))


def _extremes(owners: Places, instances: pa.Table, count: int) -> tuple[Scores, Scores]:
    """(count,) the greatest and the least score of each image's instances; infinite for one without."""
    best, worst = np.full(count, -np.inf, np.float32), np.full(count, np.inf, np.float32)
    known, scores = owners >= 0, _values(combined(instances["score"]), np.float32)
    np.maximum.at(best, owners[known], scores[known])
    np.minimum.at(worst, owners[known], scores[known])
    return best, worst


def _values(column: pa.Array, kind: type[N]) -> NDArray[N]:
    """(n,) a column's values; where it is null, any."""
    return np.frombuffer(column.buffers()[1] or b"", kind)[column.offset :][: len(column)]


def _finite(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
