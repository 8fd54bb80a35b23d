"""What became of a job: its tables against an undisturbed run's, its accounts, its writes one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.ledger import LedgerError
from pipeline.storage import Store, StoreError
from pipeline.verify import Outcome as Soundness
from pipeline.verify import verify
from tests.integration.faults.proxy import Entry


class Outcome(StrEnum):
    OK = "ok"
    LOST = "lost"
    """An input has no row, or an instance is gone."""
    DUPLICATED = "duplicated"
    """A row is there twice."""
    DIFFERING = "differing"
    """A row is not as in the undisturbed run, or the output contradicts itself."""
    TORN = "torn"
    """A reader saw an image without its instances, or a shard was committed twice, on the way."""
    HUNG = "hung"
    """The job was not complete after so many runs, or so much time; or a driver did not end when told to."""
    CRASHED = "crashed"
    """A driver ended in a traceback: an error that nobody foresaw."""
    SKIPPED = "skipped"
    """This machine does not let the fault happen."""


@dataclass(frozen=True)
class Rows:
    """Both tables as whole jobs compare them."""

    images: pa.Table
    instances: pa.Table

    @classmethod
    def of(cls, run: tables.Run) -> Rows:
        """By the commits."""
        return cls(tables.canonical(run.images()), tables.canonical(run.instances()))

    @classmethod
    def public(cls, store: Store) -> Rows:
        """By a listing, as one reads them who knows nothing of commits."""
        return cls(*(tables.canonical(_public(store, name)) for name in ("images", "instances")))


def compare(rows: Rows, expected: Rows) -> tuple[Outcome, str]:
    """How rows differ from those expected."""
    for name, keys in (("images", ("image_id",)), ("instances", ("image_id", "instance_id"))):
        mine, theirs = (Counter(_keys(getattr(each, name), keys)) for each in (rows, expected))
        if lost := theirs - mine:
            return Outcome.LOST, f"{name} lack {_some(lost)}"
        if more := mine - theirs:
            return Outcome.DUPLICATED, f"{name} have more than once {_some(more)}"
        if not getattr(rows, name).equals(getattr(expected, name)):
            return Outcome.DIFFERING, f"{name} differ"
    return Outcome.OK, ""


def judge(store: Store, expected: Rows) -> tuple[Outcome, str]:
    """Whether an output that is said to be complete is what it should be."""
    try:
        run = tables.open(store.uri)
        if not run.complete:
            return Outcome.LOST, "not every shard is committed"
        outcome, why = compare(Rows.of(run), expected)
        if outcome is Outcome.OK:
            outcome, why = compare(Rows.public(store), expected)
        report = verify(store, full=True)
    except (LedgerError, StoreError, pa.ArrowException) as error:
        return Outcome.DIFFERING, f"{type(error).__name__}: {error}"
    if outcome is Outcome.OK and report.outcome is not Soundness.GOOD:
        return Outcome.DIFFERING, f"verify: {report.outcome}, {'; '.join(map(str, report.findings))}"
    return outcome, why


def read_journal(journal: Sequence[Entry]) -> list[str]:
    """Broken promises in what the server carried out: a record created twice, images public too early."""
    done = [entry for entry in journal if entry.status < 300]
    created = Counter(entry.key for entry in done if entry.kind == "record")
    complaints = [f"{key} was created {times} times" for key, times in created.items() if times > 1]
    published: dict[str, int] = {}
    for entry in (entry for entry in done if entry.kind == "publish"):
        published[entry.key] = min(entry.ended, published.get(entry.key, entry.ended))
    for entry in done:
        if entry.kind == "publish" and "/images/" in entry.key:
            before = published.get(entry.key.replace("/images/", "/instances/"))
            if before is None or before > entry.began:
                complaints.append(f"{entry.key} was published before its instances")
    return complaints


def _public(store: Store, name: str) -> pa.Table:
    keys = sorted(info.key for info in store.list(f"{name}/"))
    return pa.concat_tables([pq.read_table(BytesIO(store.get(key))) for key in keys])


def _keys(table: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _some(keys: Counter[tuple[Any, ...]]) -> str:
    shown = ", ".join("/".join(map(str, key)) for key in list(keys)[:3])
    return f"{len(keys)} rows ({shown})"
