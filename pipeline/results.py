"""What a worker reports of a shard to whoever handed it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pipeline.commit import Commit, Work


@dataclass(frozen=True)
class ShardResult:
    """One shard's end, for progress and logs; the accounts themselves are the commit records."""

    shard: str
    attempt: str = ""
    worker: str = ""
    won: bool = False
    """Whether this attempt's rows are the shard's; False when another attempt was committed first."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Inputs by status, of the attempt that was committed."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Instances by class name."""
    instances: int = 0
    bytes: int = 0
    """Bytes of input read."""
    capped: int = 0
    """Inputs with as many instances as a model may find in one."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time by stage, as in the commit record, and `commit`."""
    first: float | None = None
    """Unix time at which the first batch began; None when no batch ran."""
    last: float | None = None
    """Unix time at which the last batch ended."""
    busy: float = 0.0
    """Seconds inside the model."""
    error: str | None = None
    """Why the shard could not be committed; the rest is then empty. None when it is committed."""
    stopped: bool = False
    """Whether the shard was not begun because the run is to stop; `worker` then has nothing in work."""

    @property
    def images(self) -> int:
        """Inputs of the shard."""
        return sum(self.counts.values())

    def to_json(self) -> str:
        """As it crosses a process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardResult:
        """The reverse."""
        return cls(**json.loads(text))


def result_of(ruling: Commit, attempt: str, work: Work) -> ShardResult:
    """The report of an attempt at a shard, of which `ruling` is the record that was committed."""
    return ShardResult(
        shard=ruling.shard,
        attempt=attempt,
        worker=work.worker,
        won=ruling.attempt == attempt,
        counts=ruling.counts,
        classes=ruling.classes,
        instances=ruling.instances,
        bytes=ruling.bytes,
        capped=ruling.capped,
        seconds=work.seconds,
        first=work.first,
        last=work.last,
        busy=work.busy,
    )
