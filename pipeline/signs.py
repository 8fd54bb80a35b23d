"""Reading workers' signs of life, and finding the shards that stand still."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.nouns import many
from pipeline.storage import NotFound, Store

PATIENCE = 120.0
"""Seconds without any advance after which a shard is told to stand still."""
AGAIN = 600.0
"""Seconds until it is told again; each time twice as long."""


@dataclass(frozen=True)
class ShardSign:
    """A shard that a worker has in work. Times are Unix times of the worker's clock."""

    shard: str
    worker: str
    """Its name: host, process id and a random part."""
    since: float
    images: int
    done: int
    step: str | None
    """The last of `pipeline.steps` that it reached."""
    step_since: float
    decoding: int
    """Images being decoded."""

    @property
    def doing(self) -> str:
        """What it was last seen at, in words."""
        step = self.step or "its start"
        return f"{step}, {many(self.decoding, 'image')} decoding" if self.decoding else step


@dataclass(frozen=True)
class WorkerSign:
    """What a worker last said. Times are Unix times of the worker's clock."""

    worker: str
    time: float
    started: float
    images: int
    """Images it has done since it started."""
    shards: tuple[ShardSign, ...]


def read_signs(store: Store) -> list[WorkerSign]:
    """What each worker last said; a sign that vanishes or is broken while it is read is left out.

    Raises StoreError when the store cannot be reached.
    """
    signs = []
    for info in store.records("_progress/"):
        try:
            signs.append(_parsed(json.loads(store.get(info.key))))
        except (NotFound, ValueError, KeyError, TypeError, AttributeError):
            continue
    return signs


def _parsed(said: Any) -> WorkerSign:
    worker = str(said["worker"])
    shards = tuple(_shard(worker, str(shard), part) for shard, part in sorted(said["shards"].items()))
    return WorkerSign(worker, float(said["time"]), float(said["started"]), int(said["images"]), shards)


def _shard(worker: str, shard: str, part: Any) -> ShardSign:
    since = float(part["since"])
    return ShardSign(
        shard=shard,
        worker=worker,
        since=since,
        images=int(part["images"]),
        done=int(part["done"]),
        step=None if part.get("step") is None else str(part["step"]),
        step_since=float(part.get("step_since", since)),
        decoding=int(part.get("decoding", 0)),
    )


@dataclass(frozen=True)
class Stall:
    """A shard that stands still."""

    sign: ShardSign
    seconds: float
    """How long nothing of it has advanced."""
    silent: float
    """How long its worker has given no sign at all."""


@dataclass
class _Known:
    state: tuple[object, ...]
    since: float
    tell_at: float
    again: float = AGAIN


class StallWatch:
    """Looks at the signs from time to time and tells what stands still, sparingly.

    Goes by its own clock: a shard's time runs from when it was first seen as it is. Of a worker's shards the
    one begun first has the model first, so a younger one may wait for it, and is told only if that stands
    still too. A sign that stood there at the first look and never changed is that of a worker long dead.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._shards: dict[tuple[str, str], _Known] = {}
        self._said: dict[str, tuple[float, float]] = {}
        """What each worker last said, by its clock, and when that was first seen here."""
        self._old: dict[str, float] | None = None
        """What was said before the first look."""

    def look(self, signs: Sequence[WorkerSign], now: float, done: Container[str] = ()) -> list[Stall]:
        """Stalls to tell of; `now` in seconds of a clock that only goes forward, `done` shards that ended."""
        if self._old is None:
            self._old = {sign.worker: sign.time for sign in signs}
        alive = [sign for sign in signs if self._old.get(sign.worker) != sign.time]
        self._said = {sign.worker: self._last(sign, now) for sign in alive}
        self._shards = {_key(shard): self._known(shard, now) for sign in alive for shard in sign.shards}
        stalls = [stall for sign in alive for stall in self._stalls(sign, now)]
        return [
            stall for stall in stalls if stall.sign.shard not in done and not self._elsewhere(stall, alive)
        ]

    def _last(self, sign: WorkerSign, now: float) -> tuple[float, float]:
        before = self._said.get(sign.worker)
        return before if before and before[0] == sign.time else (sign.time, now)

    def _elsewhere(self, stall: Stall, signs: Iterable[WorkerSign]) -> bool:
        """Whether a younger attempt at the shard is in work: then this one's worker is dead."""
        mine = stall.sign
        others = (shard for sign in signs for shard in sign.shards if shard.shard == mine.shard)
        return any(other.since > mine.since for other in others)

    def _known(self, sign: ShardSign, now: float) -> _Known:
        state = (sign.since, sign.done, sign.step, sign.step_since, sign.decoding)
        known = self._shards.get(_key(sign))
        return known if known and known.state == state else _Known(state, now, now + self._patience)

    def _stalls(self, sign: WorkerSign, now: float) -> Iterator[Stall]:
        for shard in sorted(sign.shards, key=lambda shard: shard.since):
            known = self._shards[_key(shard)]
            if now - known.since < self._patience:
                return
            if now >= known.tell_at:
                known.tell_at, known.again = now + known.again, 2 * known.again
                yield Stall(shard, now - known.since, now - self._said[sign.worker][1])


def _key(sign: ShardSign) -> tuple[str, str]:
    return sign.worker, sign.shard
