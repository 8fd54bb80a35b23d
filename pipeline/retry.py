"""Doing some inputs of committed shards again: which they are, what of the shard stays, and how far it is."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.commit import Commit, TableFile, attempt_key, commit_key, public_key
from pipeline.ledger import Ledger, LedgerError
from pipeline.poison import read_culprits
from pipeline.records import ImageRef, Status
from pipeline.schemas import TABLES
from pipeline.storage import NotFound, Store

POISON = "_poison/"
"""Holds a record of each image that kills its worker, in a folder a shard (`pipeline.poison`)."""
NOTES = "_retry/"
"""Holds a note of each retry that is under way, so that the same request goes on after an interruption."""
RETRIABLE = frozenset(status.value for status in Status) - {Status.OK, Status.EMPTY, Status.NODATA}
"""Statuses that another try may change; the others are results."""

Tables = Mapping[str, pa.Table]


@dataclass(frozen=True)
class Retry:
    """What a retry is about: the inputs that ended so, in shards as they were when it began."""

    statuses: frozenset[str]
    revisions: Mapping[str, int]
    """The shards, and the revision that ruled each then; one with a later revision is done."""
    poison: bool = False
    """Also those that killed their worker."""

    def left(self, ledger: Ledger) -> list[str]:
        """Shards that are not done yet, in order."""
        done = ledger.revisions()
        return sorted(shard for shard, before in self.revisions.items() if done.get(shard, 0) <= before)


@dataclass(frozen=True)
class Redo:
    """One shard's part in a retry."""

    base: Commit
    """The record that rules the shard until then."""
    standing: Tables
    """Its rows; none are read when there is nothing to do."""
    again: frozenset[str]
    """Ids of the inputs to be done again."""

    @classmethod
    def of(cls, ledger: Ledger, retry: Retry, shard: str) -> Redo:
        """What is to be done now: nothing where another has done it, whatever came of the inputs.

        Images that are known to kill their worker are left as they are. Raises LedgerError when the shard's
        committed files are not what they were.
        """
        base = _ruling(ledger, shard)
        if base.revision > retry.revisions[shard]:
            return cls(base, {}, frozenset())
        try:
            standing = standing_tables(ledger.store, base)
        except LedgerError:
            if _ruling(ledger, shard) != base:  # taken from under us by another retry's commit
                return cls.of(ledger, retry, shard)
            raise
        images = standing["images"]
        ended = pc.is_in(images["status"], value_set=pa.array(sorted(retry.statuses), pa.string()))
        ids = set(images["image_id"].filter(ended).to_pylist())
        return cls(base, standing, frozenset(ids - read_culprits(ledger.store, shard).keys()))

    def inputs(self, refs: Sequence[ImageRef]) -> list[ImageRef]:
        """Of a shard's inputs those to be done again, as they lie there now.

        A file that was mended since the plan is another file, and taken.
        """
        return [replace(ref, etag=None, bytes=None) for ref in refs if ref.image_id in self.again]


def _ruling(ledger: Ledger, shard: str) -> Commit:
    ruling = ledger.read(shard)
    if ruling is None:
        raise LedgerError(f"{ledger.store.join(commit_key(shard))} is gone: somebody changed the output")
    return ruling


def standing_tables(store: Store, commit: Commit) -> Tables:
    """A shard's committed rows. Raises LedgerError when a file is gone or not the committed one."""
    return {table: _committed(store, commit, table) for table in TABLES}


def committed_images(store: Store, commit: Commit) -> pa.Table:
    """A shard's rows of `images` alone; raises LedgerError too."""
    return _committed(store, commit, "images")


def _committed(store: Store, commit: Commit, table: str) -> pa.Table:
    public = public_key(table, commit.shard)
    # Between commit and publication the file has its attempt's name; then it may just have been published.
    for key in (public, attempt_key(commit.shard, commit.attempt, table), public):
        try:
            data = store.get(key)
        except NotFound:
            continue
        if TableFile.of(data, commit.files[table].rows) == commit.files[table]:
            # No threads of pyarrow's own: a process that ends right after reading would abort now and then.
            file = pq.ParquetFile(BytesIO(data), pre_buffer=False)
            return file.read(use_threads=False).replace_schema_metadata()
    raise LedgerError(
        f"{store.join(public)} is missing or is not the file that shard {commit.shard} committed: somebody "
        "changed the output; `condinst verify` says how far, and what to do"
    )


def taken_over(standing: Tables, redone: Tables) -> dict[str, pa.Table]:
    """A shard's new tables: the standing rows, but of inputs that were done again the new ones.

    Rows are in the order of the standing `images`, an input's instances in their own.
    """
    order, again = standing["images"]["image_id"], redone["images"]["image_id"]
    return {table: _merged(standing[table], redone[table], order, again) for table in TABLES}


def _merged(old: pa.Table, new: pa.Table, order: pa.ChunkedArray, again: pa.ChunkedArray) -> pa.Table:
    kept = old.filter(pc.invert(pc.is_in(old["image_id"], value_set=again.combine_chunks())))
    for at, field in enumerate(new.schema):  # that came after the old rows were written
        if field.name not in kept.column_names:
            kept = kept.add_column(at, field, pa.nulls(kept.num_rows, field.type))
    parts = [kept.cast(new.schema), new]
    both = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    places = pc.index_in(both["image_id"], value_set=order.combine_chunks())
    return both.take(np.argsort(places.to_numpy(), kind="stable"))


def request(
    store: Store, statuses: Iterable[str], revisions: Mapping[str, int], poison: bool = False
) -> tuple[str, Retry]:
    """Note a retry of these shards, or go on with the same request, which did not end.

    `revisions` are the shards that have such inputs now. A shard that the unfinished retry has done already
    is not done again, whatever its inputs came to. With `poison` it begins with knowing nothing of deadly
    images; what it then learns of them, death after death, is kept when it goes on. Returns the note's key,
    to be removed at the end, and what is to be done.
    """
    wanted = frozenset(statuses)
    within = []
    for info in store.records(NOTES):
        before = _note(store, info.key)
        if before is None or before.statuses != wanted:
            continue
        if poison and not before.poison:
            within.append(info.key)  # this one does all that it would have done
        elif before.poison == poison:
            done = {s for s, revision in revisions.items() if revision > before.revisions.get(s, revision)}
            return info.key, Retry(wanted, {s: r for s, r in revisions.items() if s not in done}, poison)
    if poison:
        forget_culprits(store, revisions)
    key = f"{NOTES}{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}.json"
    note = {
        "statuses": sorted(wanted),
        "revisions": dict(revisions),
        "poison": poison,
        "time": time.time(),
    }
    store.put(key, json.dumps(note).encode())
    store.delete(within)
    return key, Retry(wanted, revisions, poison)


def unfinished(store: Store) -> list[Retry]:
    """Retries that are under way, or were when they were cut off."""
    notes = (_note(store, info.key) for info in store.records(NOTES))
    return [note for note in notes if note is not None]


def count_culprits(store: Store) -> Counter[str]:
    """Images that are known to kill their worker, by shard."""
    return Counter(info.key.split("/")[1] for info in store.records(POISON))


def forget_culprits(store: Store, shards: Container[str]) -> None:
    """Let the next attempts at these shards try their deadly images as if nothing was known of them.

    What is known of their deaths stays: the next attempt is a careful one.
    """
    verdicts = [info.key for info in store.list(POISON)]
    notes = [info.key for info in store.list("_attempts/") if info.key.endswith("/at")]
    store.delete([key for key in (*verdicts, *notes) if key.split("/")[1] in shards])


def _note(store: Store, key: str) -> Retry | None:
    try:
        fields = json.loads(store.get(key))
        revisions = {str(shard): int(revision) for shard, revision in fields["revisions"].items()}
        return Retry(frozenset(map(str, fields["statuses"])), revisions, fields.get("poison") is True)
    except (NotFound, ValueError, KeyError, TypeError, AttributeError):
        return None
