"""The commit record: the one small object whose existence makes a shard's rows part of the tables."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from pipeline.objects import Data
from pipeline.schemas import TABLES

RECORD_VERSION = 1
SHARD = r"(?P<shard>\d{4,}-\d{6,})"
"""Pattern of a shard's id."""
_ATTEMPT = re.compile(rf"_attempts/{SHARD}/(?P<attempt>\d{{13}}-[0-9a-f]+)/\w[\w.-]*")


@dataclass(frozen=True)
class TableFile:
    """One table's file of a shard."""

    rows: int
    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, data: Data, rows: int) -> TableFile:
        """Describe the file that has these bytes."""
        return cls(rows=rows, size=len(data), sha256=hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Work:
    """What a shard cost its worker. Times are seconds; `first` and `last` are Unix times."""

    worker: str
    first: float | None = None
    """When the shard's first batch began; None when no batch ran."""
    last: float | None = None
    """When its last batch ended."""
    busy: float = 0.0
    """Time inside the model. A worker's busy share is the sum of these over (latest last - first first)."""
    batches: int = 0
    splits: int = 0
    """Batches that went through the model in parts, mostly because they did not fit into its memory."""
    images: int | None = None
    """Inputs that it went through; None for all of the shard's."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time by stage: `fetch` (waiting for prepared images), `decode`, `prepare`, `model`, `turn` (waiting for
    the other shard's batch to leave the model), `encode`, `write`."""


@dataclass(frozen=True)
class Commit:
    """One shard's record. `sum(counts.values())` is the number of the shard's inputs."""

    shard: str
    attempt: str
    fingerprint: str
    files: Mapping[str, TableFile]
    counts: Mapping[str, int]
    """Inputs by status."""
    classes: Mapping[str, int]
    """Instances by class name."""
    instances: int
    bytes: int
    """Bytes of input read."""
    committed: float
    """Unix time at which the attempt asked to be committed."""
    work: Work
    revision: int = 0
    """0 for the first run of a shard; a retry on request commits the next one, and the highest rules."""
    windows: Mapping[str, int] = field(default_factory=dict)
    """Of a stitch shard: which revisions of window shards it was made of; those that it leaves out are 0."""
    capped: int = 0
    """Inputs, of a tiled job windows, with as many instances as a model may find in one."""

    def to_json(self) -> str:
        """As stored."""
        fields = asdict(self)
        if not self.windows:
            del fields["windows"]
        return json.dumps({"version": RECORD_VERSION, **fields}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Commit:
        """Read a stored record. Raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            version = fields.pop("version")
            if version != RECORD_VERSION:
                raise ValueError(f"record version {version}, this program reads {RECORD_VERSION}")
            fields["files"] = {table: TableFile(**fields["files"][table]) for table in TABLES}
            fields["work"] = Work(**fields["work"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a commit record ({error!r})") from error


def commit_key(shard: str, revision: int = 0) -> str:
    """Key of a shard's record below the output."""
    return f"commits/{shard}.json" if revision == 0 else f"commits/{shard}.r{revision}.json"


def parse_commit_key(key: str) -> tuple[str, int] | None:
    """(shard, revision) of a record's key; None for anything else found under `commits/`."""
    name = key.removeprefix("commits/")
    if name == key or "/" in name or not name.endswith(".json"):
        return None
    shard, dot, revision = name.removesuffix(".json").partition(".r")
    if not dot:
        return shard, 0
    return (shard, int(revision)) if revision.isascii() and revision.isdigit() else None


def public_key(table: str, shard: str) -> str:
    """Key of a shard's public file of a table."""
    return f"{table}/{shard}.parquet"


def attempt_prefix(shard: str, attempt: str) -> str:
    """Folder of an attempt's own files, with the closing slash."""
    return f"_attempts/{shard}/{attempt}/"


def attempt_key(shard: str, attempt: str, table: str) -> str:
    """Key of an attempt's own file of a table."""
    return f"{attempt_prefix(shard, attempt)}{table}.parquet"


def started_key(shard: str, attempt: str) -> str:
    """Key of the note that an attempt began; an attempt that has one and never ends died at work."""
    return f"{attempt_prefix(shard, attempt)}started"


def parse_attempt_key(key: str) -> tuple[str, str] | None:
    """(shard, attempt) of the key of an attempt's file; None for anything else found under `_attempts/`."""
    found = _ATTEMPT.fullmatch(key)
    return (found["shard"], found["attempt"]) if found else None
