"""Reading a segment job's tables, exactly: their files are those of the commits, never those of a listing.

    run = pipeline.tables.open("s3://bucket/masks/mushrooms")
    run.images(columns=["image_id", "status"])
    run.instances(filter=pc.field("score") > 0.5)

A run is what was committed when it was opened, also while the job goes on or after its driver was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ahead import ahead
from pipeline.commit import Commit, attempt_key, public_key
from pipeline.ledger import Ledger, LedgerError
from pipeline.maskviews import MASK_COLUMNS, Mask, boxes, masks_of, pixel_polygons
from pipeline.plan import Plan, load_plans, window_plans
from pipeline.rowmasks import crop, full_frame_rle, polygons
from pipeline.schemas import (
    INSTANCES_SCHEMA,
    SCHEMA_VERSION,
    TILED_INSTANCES_SCHEMA,
    VOLATILE_COLUMNS,
    images_schema,
)
from pipeline.storage import NotFound, Store, StoreOptions

__all__ = [
    "Mask",
    "Run",
    "boxes",
    "canonical",
    "crop",
    "full_frame_rle",
    "open",
    "pixel_polygons",
    "polygons",
]

TableName = Literal["instances", "images"]
R = TypeVar("R")
READERS = 8
"""Files read at a time."""
GEO = b"geo"
"""GeoParquet's key in a file's metadata, which rows keep that are read for themselves."""
SHARDS_AHEAD = 2
"""Whole shards, both tables of each, worked on at a time."""


def open(uri: str, options: StoreOptions | None = None) -> Run:
    """The tables of the job whose output is `uri`, as far as they are committed now.

    Raises NotFound where no job ever ran, StoreError when the store cannot be reached, LedgerError for an
    output that another program wrote.
    """
    return Run(Store.open(uri, options))


def canonical(table: pa.Table) -> pa.Table:
    """The part of a table that equal jobs share: without the volatile columns, metadata and chunks.

    Rows are in plan order already, whatever order the shards ran in, so two runs are equal when these are.
    """
    kept = table.drop_columns([name for name in VOLATILE_COLUMNS if name in table.column_names])
    return kept.replace_schema_metadata().unify_dictionaries().combine_chunks()


class Run:
    """One job's output, as committed when it was opened."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ledger = Ledger(store)
        self.job: dict[str, object] = self.ledger.job()
        """What `job.json` says."""
        self.plans: list[Plan] = load_plans(store)
        """The frozen inputs, a generation each."""
        self._revisions = self.ledger.revisions()
        self.shards: list[str] = [
            shard for plan in self.plans for shard in plan.shard_ids() if shard in self._revisions
        ]
        """Committed shards, in plan order."""

    @cached_property
    def commits(self) -> list[Commit]:
        """The records of the committed shards, in plan order."""
        records = {commit.shard: commit for commit in self.read_commits()}
        return [records[shard] for shard in self.shards]

    def read_commits(self) -> Iterator[Commit]:
        """The same as they are read, mostly in plan order."""
        return self.ledger.records(self._revisions)

    def records(self, shards: Sequence[str]) -> list[Commit]:
        """The records of some committed shards, in that order, a request each: not all."""
        found = {c.shard: c for c in self.ledger.records({name: self._revisions[name] for name in shards})}
        return [found[name] for name in shards]

    @property
    def tiled(self) -> bool:
        """Whether its images were cut into windows, so that instances may have a place on the map."""
        return bool(window_plans(self.plans))

    @property
    def crs(self) -> str | None:
        """CRS of the geometries; None where there are none."""
        return next((plan.crs for plan in self.plans if plan.crs), None)

    @property
    def complete(self) -> bool:
        """Whether every shard of every plan is committed."""
        return len(self.shards) == sum(plan.shards for plan in self.plans)

    def part(
        self,
        commit: Commit,
        table: TableName,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
    ) -> pa.Table:
        """One shard's rows of a table, of the record in `commits`."""
        return self._read(commit, table, columns, filter)

    def images(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """`images` in plan order: some columns, the rows that `filter` holds for."""
        return self._table("images", columns, filter)

    def instances(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        """`instances` in plan order: some columns, the rows that `filter` holds for.

        Without `mask` a fraction of the bytes is read: only the columns asked for leave the store.
        """
        return self._table("instances", columns, filter)

    def masks(self, filter: pc.Expression | None = None) -> Iterator[Mask]:
        """The instances that `filter` holds for, one by one, with their masks in any form; in plan order.

        A stream: memory holds some shards.
        """

        def of(number: int, images: pa.Table, instances: pa.Table) -> tuple[pa.Table, pa.Table]:
            return images, instances

        for images, instances in self.by_shard(of, ("image_id", "height", "width"), MASK_COLUMNS, filter):
            rows = images.to_pylist()
            yield from masks_of({r["image_id"]: (r["height"], r["width"]) for r in rows}, instances)

    def batches(
        self,
        table: TableName,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as a stream, for tables larger than memory: some shards are read ahead, no more."""
        for part in self.parts(table, columns, filter):
            yield from part.to_batches()

    def by_shard(
        self,
        function: Callable[[int, pa.Table, pa.Table], R],
        images: Sequence[str] | None = None,
        instances: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        shards: Container[str] | None = None,
    ) -> Iterator[R]:
        """`function` of each shard's number in plan order, its `images` and its `instances`, in that order.

        `filter` is held against instances; `shards` are those wanted, None for all. Called in threads: two
        shards are worked on at a time.
        """

        def of(place: tuple[int, Commit]) -> R:
            number, commit = place
            parts = (
                self._read(commit, "images", images, None),
                self._read(commit, "instances", instances, filter),
            )
            return function(number, *parts)

        with ThreadPoolExecutor(SHARDS_AHEAD) as workers:
            wanted = [item for item in enumerate(self.commits) if shards is None or item[1].shard in shards]
            yield from ahead(workers, of, wanted, SHARDS_AHEAD)

    def schema(self, table: TableName) -> pa.Schema:
        """A table's columns, those passed through from manifests among them."""
        if table == "instances":
            schema = TILED_INSTANCES_SCHEMA if self.tiled else INSTANCES_SCHEMA
        else:
            schema = pa.unify_schemas([images_schema(plan.extra) for plan in self.plans] or [images_schema()])
        return schema.with_metadata(
            {
                "condinst.schema": SCHEMA_VERSION,
                "condinst.fingerprint": str(self.job["fingerprint"]),
                "condinst.model_digest": str(self.job.get("model_digest", "")),
            }
        )

    def _table(
        self, table: TableName, columns: Sequence[str] | None, filter: pc.Expression | None
    ) -> pa.Table:
        schema = self.schema(table)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
        parts = [schema.empty_table(), *self.parts(table, columns, filter)]
        return pa.concat_tables(parts).unify_dictionaries().replace_schema_metadata(schema.metadata)

    def parts(
        self,
        table: TableName,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        commits: Sequence[Commit] | None = None,
    ) -> Iterator[pa.Table]:
        """The same rows, a table a shard: as many as `commits`, in their order, some read ahead."""
        wanted = self.commits if commits is None else commits
        with ThreadPoolExecutor(READERS) as readers:
            read = partial(self._read, table=table, columns=columns, filter=filter)
            yield from ahead(readers, read, wanted, READERS)

    def _read(
        self, commit: Commit, table: TableName, columns: Sequence[str] | None, filter: pc.Expression | None
    ) -> pa.Table:
        """One shard's rows. Between commit and publication they lie under the attempt's name."""
        public = public_key(table, commit.shard)
        for key in (public, attempt_key(commit.shard, commit.attempt, table), public):
            try:
                file = self._open(key, commit, table)
                if file is not None:
                    return self._scan(file, table, columns, filter)
            except NotFound:
                continue
        ruling = self.ledger.read(commit.shard)
        if ruling is not None and ruling.revision > commit.revision:
            raise LedgerError(
                f"{self.store.uri}: shard {commit.shard} was retried since these tables were opened; "
                "open them again"
            )
        raise LedgerError(
            f"{self.store.join(public)} is missing or is not the file that shard {commit.shard} committed: "
            "somebody changed the output"
        )

    def _open(self, key: str, commit: Commit, table: TableName) -> pa.PythonFile | None:
        """The file of that name, or None if it is not the committed one."""
        size = commit.files[table].size
        if self.store.head(key).size != size:
            return None
        file = pa.PythonFile(self.store.reader(key, size), mode="r")
        try:
            said = (pq.read_schema(file).metadata or {}).get(b"condinst.attempt")
        except pa.ArrowInvalid:
            return None
        return file if said == commit.attempt.encode() else None

    def _scan(
        self,
        file: pa.PythonFile,
        table: TableName,
        columns: Sequence[str] | None,
        filter: pc.Expression | None,
    ) -> pa.Table:
        full = self.schema(table)
        names = full.names if columns is None else columns
        schema = pa.schema([full.field(name) for name in names], metadata=full.metadata)
        if filter is None and schema.names and not any("." in name for name in schema.names):
            return _whole(pq.ParquetFile(file), schema)
        import pyarrow.dataset as ds  # loads pandas

        fragment = ds.ParquetFileFormat().make_fragment(file)
        rows = ds.Scanner.from_fragment(
            fragment,
            schema=full,
            columns=list(names),
            filter=filter,
            use_threads=False,
        ).to_table()
        return _with_geo(rows, (fragment.physical_schema.metadata or {}).get(GEO))


def _whole(file: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """All rows of a file, in the columns of `schema`; null where it has none of that name."""
    there = set(file.schema_arrow.names)
    found = file.read(columns=[name for name in schema.names if name in there], use_threads=False)
    arrays = [
        found[field.name].cast(field.type)
        if field.name in there
        else pa.chunked_array([pa.nulls(file.metadata.num_rows, field.type)])
        for field in schema
    ]
    rows = pa.Table.from_arrays(arrays, schema=schema)
    return _with_geo(rows, (file.schema_arrow.metadata or {}).get(GEO))


def _with_geo(rows: pa.Table, geo: bytes | None) -> pa.Table:
    """Rows that say what their file says of its geometries."""
    return rows.replace_schema_metadata({**(rows.schema.metadata or {}), GEO: geo}) if geo else rows
