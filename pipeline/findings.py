"""What can be wrong with an output: each kind of contradiction, where it was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """A kind of contradiction between what an output says and what lies in it."""

    JOB = "job"
    """`job.json` is gone, cannot be read, or its fingerprint is not that of its settings."""
    PLAN = "plan"
    """A plan is gone or cannot be read."""
    MANIFEST = "manifest"
    """A plan's manifest file is gone or is not the one that was planned."""
    RECORD = "record"
    """A commit record cannot be read, or is not that of its name."""
    LEDGER = "ledger"
    """A file of folded records that is torn, or that says of a record what the record does not."""
    STRANGER = "stranger"
    """A commit record of a shard that no plan has."""
    FINGERPRINT = "fingerprint"
    """A record of rows made with other settings than the job's."""
    FILE = "file"
    """A public file is missing, or is not the one that was committed."""
    SCHEMA = "schema"
    """A committed file is no table of this version, or says of itself what its record does not."""
    ROWS = "rows"
    """A file has another number of rows than its record says."""
    INPUTS = "inputs"
    """The rows of `images` are not the manifest's images, one each, in order."""
    STATUS = "status"
    """A row of `images` has a status that is none of the eight."""
    COUNTS = "counts"
    """The record's counts by status or class, or its number of instances, are not those of the rows."""
    INSTANCES = "instances"
    """`images.instances` is not the number of an image's rows in `instances`, or does not fit its status."""
    IMAGE = "image"
    """An instance of an image that has no row in the shard, or that is not `ok`."""
    ORDER = "order"
    """Images out of manifest order, or instance ids that are not 0, 1, ..."""
    SCORE = "score"
    """Scores that do not fall within an image."""
    MASK = "mask"
    """A mask that is not its crop, not its area, or not inside its image."""
    CATEGORY = "category"
    """A class index with two names, or a name with two indices."""
    GEOMETRY = "geometry"
    """A geometry that is none, or a file with geometries without GeoParquet's metadata."""


@dataclass(frozen=True)
class Finding:
    """One contradiction."""

    fault: Fault
    where: str
    """URI of the object that is wrong."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class Faults:
    """What is wrong with one shard's rows: a kind of fault once, with its first place and how often."""

    def __init__(self) -> None:
        self._first: dict[Fault, tuple[str, str]] = {}
        self._times: dict[Fault, int] = {}

    def add(self, fault: Fault, table: str, what: str, times: int = 1) -> None:
        """Note a fault of a table's file; only the first of its kind keeps its words."""
        self._first.setdefault(fault, (table, what))
        self._times[fault] = self._times.get(fault, 0) + times

    def __iter__(self) -> Iterator[tuple[Fault, str, str]]:
        """Yield fault, table and words."""
        for fault, (table, what) in self._first.items():
            more = self._times[fault] - 1
            yield fault, table, what + (f" (and {more:,} more like it)" if more else "")
