"""Holds one committed shard against its record, its plan and itself."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.commit import Commit, TableFile, attempt_key, public_key
from pipeline.findings import Fault, Faults
from pipeline.rowcheck import IMAGE_COLUMNS, INSTANCE_COLUMNS, InstanceRows, ShardImages
from pipeline.schemas import INSTANCES_SCHEMA, TABLES, file_metadata, images_schema
from pipeline.storage import NotFound, Store, StoreError

CHUNK = 8 << 20
"""Bytes asked for at a time."""
SPOOL = 16 << 20
"""Bytes of a file held in memory; a larger one goes to the temporary folder while it is looked at."""
BATCH_ROWS = 8_192


class NotTheFile(Exception):
    """An object that is missing, or is not the one that was recorded; says in which way."""


@dataclass
class ShardRows:
    """What the rows of one shard add up to."""

    images: int = 0
    instances: int = 0
    masks: int = 0
    """Masks decoded."""
    categories: Counter[tuple[int, str]] = field(default_factory=Counter)
    unpublished: bool = False
    """Whether a file still lies under its attempt's name."""


class ShardCheck:
    """One shard with its ruling record; `faults` holds what is wrong."""

    def __init__(
        self,
        store: Store,
        record: Commit,
        job: Mapping[str, object],
        expected: Sequence[str] | None,
        extra: pa.Schema | None,
        masks: int | None,
    ) -> None:
        """Say what the shard should be.

        `expected` are the manifest's image ids, `extra` its passed-through columns, each None when not known;
        `masks` is how many masks to decode, None for all.
        """
        self.faults = Faults()
        self.rows = ShardRows()
        self._store, self._record, self._job = store, record, job
        self._expected, self._extra, self._masks = expected, extra, masks

    def run(self) -> bool:
        """Fetch both files and hold their rows against everything.

        False when a file is not the committed one: the rows are then not held against each other.
        """
        with ExitStack() as held:
            files = {table: self._fetch(table, held) for table in TABLES}
            tables = {table: self._open(table, file) for table, file in files.items() if file}
            images = self._images(tables.get("images"))
            if images is not None:
                self._instances(tables.get("instances"), images)
            return all(files.values())

    def _fetch(self, table: str, held: ExitStack) -> IO[bytes] | None:
        """The committed file, until `held` ends. Between commit and publication its name is the attempt's."""
        record, public = self._record, public_key(table, self._record.shard)
        own = attempt_key(record.shard, record.attempt, table)
        said = ""
        for key in (public, own, public):
            try:
                file = held.enter_context(fetch(self._store, key, record.files[table]))
            except NotTheFile as error:
                said = said if key == own else str(error)
            else:
                self.rows.unpublished |= key == own
                return file
        self.faults.add(Fault.FILE, table, said)
        return None

    def _open(self, table: str, file: IO[bytes]) -> pq.ParquetFile | None:
        """The file as a table of this version, with the rows that the record says; None when it is none."""
        try:
            parquet = pq.ParquetFile(file, pre_buffer=False)
        except pa.ArrowException as error:
            self.faults.add(Fault.SCHEMA, table, f"no Parquet file: {str(error).splitlines()[0]}")
            return None
        said, rows = self._record.files[table].rows, parquet.metadata.num_rows
        if said != rows:
            self.faults.add(Fault.ROWS, table, f"{rows:,} rows, its record says {said:,}")
        self._check_footer(table, parquet.schema_arrow.metadata or {})
        return parquet if self._check_columns(table, parquet.schema_arrow) else None

    def _check_footer(self, table: str, metadata: Mapping[bytes, bytes]) -> None:
        """Hold what a file says of itself against its record and its job, which may be unreadable."""
        record = self._record
        fingerprint = str(self._job.get("fingerprint", record.fingerprint))
        digest = self._job.get("model_digest")
        expected = file_metadata(record.shard, record.attempt, fingerprint, str(digest))
        for name, value in expected.items():
            said = metadata.get(name.encode(), b"").decode(errors="replace")
            if said != value and (digest is not None or name != "condinst.model_digest"):
                self.faults.add(Fault.SCHEMA, table, f"its footer says {name} {said!r}, not {value!r}")

    def _check_columns(self, table: str, schema: pa.Schema) -> bool:
        """Whether the file has the table's columns; those passed through may not be known."""
        wanted = INSTANCES_SCHEMA if table == "instances" else images_schema(self._extra)
        for column in wanted:
            at = schema.get_field_index(column.name)
            if at < 0 or schema.field(at).type != column.type:
                have = "no such column" if at < 0 else f"it is {schema.field(at).type}"
                self.faults.add(Fault.SCHEMA, table, f"column {column.name} is not {column.type}: {have}")
                return False
        return True

    def _images(self, table: pq.ParquetFile | None) -> ShardImages | None:
        if table is None:
            return None
        rows = table.read(columns=list(IMAGE_COLUMNS), use_threads=False)
        if not self._no_nulls("images", rows, ("image_id", "status", "instances")):
            return None
        images = ShardImages.of(rows)
        images.check(self._expected, self._record, self.faults)
        self.rows.images = rows.num_rows
        return images

    def _instances(self, table: pq.ParquetFile | None, images: ShardImages) -> None:
        if table is None:
            return
        rows = InstanceRows(images, self._sample(table.metadata.num_rows), self.faults)
        for batch in table.iter_batches(BATCH_ROWS, columns=list(INSTANCE_COLUMNS), use_threads=False):
            if not self._no_nulls("instances", batch, INSTANCE_COLUMNS[:-1]):
                return
            rows.take(batch)
        rows.finish(self._record)
        if rows.geometries and b"geo" not in (table.schema_arrow.metadata or {}):
            what = f"{rows.geometries:,} geometries, but no GeoParquet metadata"
            self.faults.add(Fault.GEOMETRY, "instances", what)
        self.rows.instances, self.rows.masks, self.rows.categories = rows.rows, rows.decoded, rows.categories

    def _no_nulls(self, table: str, rows: pa.Table | pa.RecordBatch, columns: Sequence[str]) -> bool:
        empty = [name for name in columns if rows[name].null_count]
        if empty:
            self.faults.add(Fault.SCHEMA, table, f"column {empty[0]} has rows without a value")
        return not empty

    def _sample(self, rows: int) -> NDArray[np.int64] | None:
        """Rows whose masks are decoded: the same each time."""
        if self._masks is None:
            return None
        chosen = random.Random(self._record.shard).sample(range(rows), min(self._masks, rows))
        return np.array(sorted(chosen), dtype=np.int64)


@contextmanager
def fetch(store: Store, key: str, file: TableFile) -> Iterator[IO[bytes]]:
    """Stream an object that should be `file` to where it can be read from.

    Raises NotTheFile when it is missing or another.
    """
    with tempfile.SpooledTemporaryFile(max_size=SPOOL) as spool:
        try:
            _stream(store, key, file, spool)
        except NotFound:
            raise NotTheFile("it is missing") from None
        spool.seek(0)
        yield spool


def _stream(store: Store, key: str, file: TableFile, spool: IO[bytes]) -> None:
    if (size := store.head(key).size) != file.size:
        raise NotTheFile(f"{size:,} bytes, {file.size:,} were recorded")
    digest = hashlib.sha256()
    for at in range(0, size, CHUNK):
        part = store.get_range(key, at, min(CHUNK, size - at))
        digest.update(part)
        _spool(spool, part)
    if digest.hexdigest() != file.sha256:
        raise NotTheFile(f"other bytes than were recorded (sha256 {digest.hexdigest()[:12]}...)")


def _spool(spool: IO[bytes], part: bytes) -> None:
    try:
        spool.write(part)
    except OSError as error:
        raise StoreError(
            f"{tempfile.gettempdir()}: {error.strerror}; a file is held there while it is looked at: "
            "make room, or name another folder in TMPDIR"
        ) from None
