"""Folded commit records: a thousand in one Parquet file, so that many shards are read with few requests.

`ledger/<n>-<digest>.parquet` is derived from `commits/` and is never the truth. A folded record counts only
while the listing of `commits/` shows that very record, of the same etag and size; all others are read where
they lie. So an output reads the same without the folder, with a torn file in it, or with one of records that
were deleted, done anew or retried since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit import Commit
from pipeline.storage import NotFound, ObjectInfo, Store

FOLD = 1000
"""Records in a file."""
LEDGER = "ledger/"
READERS = 16
"""Objects fetched at a time."""
_KEY = re.compile(rf"{LEDGER}(?P<number>\d{{6,}})-(?P<digest>[0-9a-f]{{16}})\.parquet")
_SCHEMA = pa.schema([("key", pa.string()), ("etag", pa.string()), ("record", pa.binary())])
_Place = tuple[str, str]
"""Key and etag of a record."""


@dataclass(frozen=True)
class FoldedFile:
    """One file of the folder."""

    info: ObjectInfo
    records: Mapping[_Place, bytes] | None
    """What it holds; None when its bytes are not those that its name tells."""

    def current(self, infos: Mapping[str, ObjectInfo]) -> Iterator[_Place]:
        """Its records that are still what lies under `commits/`, of which `infos` are by key."""
        for (key, etag), record in (self.records or {}).items():
            info = infos.get(key)
            if info is not None and (info.etag, info.size) == (etag, len(record)):
                yield key, etag


class Folded:
    """Folded records of an output, as they were when it was made."""

    def __init__(self, files: Sequence[FoldedFile]) -> None:
        self.files = files
        self._records: dict[_Place, bytes] = {}
        for file in files:
            self._records.update(file.records or {})

    @classmethod
    def of(cls, store: Store) -> Self:
        """Read the folder: one listing, and one request a file."""
        listed = [info for info in store.list(LEDGER) if _KEY.fullmatch(info.key)]
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(lambda info: _read(store, info), listed)
            return cls([file for file in found if file is not None])

    def __contains__(self, info: ObjectInfo) -> bool:
        return self.record(info) is not None

    def record(self, info: ObjectInfo) -> bytes | None:
        """The bytes of the record that the listing shows so, if they are folded."""
        record = None if info.etag is None else self._records.get((info.key, info.etag))
        return record if record is not None and len(record) == info.size else None

    def commit(self, info: ObjectInfo) -> Commit | None:
        """The same, read."""
        if (record := self.record(info)) is not None:
            with suppress(ValueError):
                return Commit.from_json(record.decode())
        return None

    def useless(self, infos: Iterable[ObjectInfo]) -> list[FoldedFile]:
        """Files that save nobody a request: `infos` are the records that rule."""
        by_key, known = {info.key: info for info in infos}, set[_Place]()
        found = []
        for file in self.files:
            fresh = set(file.current(by_key)) - known
            known |= fresh
            if not fresh:
                found.append(file)
        return found


def fold(store: Store, infos: Iterable[ObjectInfo], folded: Folded | None = None) -> int:
    """Fold those ruling records that are not folded yet, whole thousands; returns how many.

    `infos` is what a listing says of the records that rule; `folded` saves reading the folder again. Files
    that no record needs any more are removed. Safe to run beside readers and other drivers: what is folded
    twice is a file too many until the next time.
    """
    infos = list(infos)
    if len(infos) < FOLD:
        return 0
    folded = Folded.of(store) if folded is None else folded
    left = [info for info in infos if info not in folded]
    number = 1 + max((_number(file.info.key) for file in folded.files), default=-1)
    written = 0
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(left) - FOLD + 1, FOLD):
            rows = list(filter(None, readers.map(lambda i: _row(store, i), left[start : start + FOLD])))
            data = _file(rows)
            digest = hashlib.sha256(data).hexdigest()[:16]
            store.put(f"{LEDGER}{number:06d}-{digest}.parquet", data)
            number, written = number + 1, written + len(rows)
    store.delete([file.info.key for file in folded.useless(infos)])
    return written


def _number(key: str) -> int:
    found = _KEY.fullmatch(key)
    return int(found["number"]) if found else -1


def _row(store: Store, listed: ObjectInfo) -> tuple[str, str, bytes] | None:
    """A record as folded; None for one that is gone or none: whoever reads it there is told so."""
    try:
        data, info = store.get_with_info(listed.key)
        Commit.from_json(data.decode())
    except (NotFound, ValueError):
        return None
    return None if info.etag is None else (listed.key, info.etag, data)


def _file(rows: Iterable[tuple[str, str, bytes]]) -> bytes:
    table = pa.Table.from_pylist([dict(zip(_SCHEMA.names, row, strict=True)) for row in rows], schema=_SCHEMA)
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _read(store: Store, info: ObjectInfo) -> FoldedFile | None:
    """One file; None when it went since it was listed."""
    try:
        data = store.get(info.key)
    except NotFound:
        return None
    named = _KEY.fullmatch(info.key)
    if named is None or hashlib.sha256(data).hexdigest()[:16] != named["digest"]:
        return FoldedFile(info, None)
    try:
        table = pq.read_table(BytesIO(data), schema=_SCHEMA)
    except (pa.ArrowException, OSError):
        return FoldedFile(info, None)
    keys, etags, records = (table[name].to_pylist() for name in _SCHEMA.names)
    return FoldedFile(info, dict(zip(zip(keys, etags, strict=True), records, strict=True)))
