"""A frozen manifest's files, each row group a shard: a worker reads its shard and nothing else."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.plan import PlanFile
from pipeline.storage import Store

FILE_SHARDS = 1_000
"""Most shards in one file of a manifest."""
FILE_BYTES = 64 << 20
"""A file ends with the shards that reach this size: it is held in memory until it is written."""


class ShardFiles:
    """Cuts a stream of rows into row groups of one shard each, and those into files."""

    def __init__(self, output: Store, plan_id: str, schema: pa.Schema, shard_size: int) -> None:
        self.id = plan_id
        self.files: list[PlanFile] = []
        self._output = output
        self._schema = schema.with_metadata({"condinst.plan": plan_id})
        self._shard_size = shard_size
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._open: tuple[pa.BufferOutputStream, pq.ParquetWriter] | None = None
        self._groups = 0
        self._file_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows in; writes the shards they complete."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= self._shard_size:
            self._drain(self._rows - self._rows % self._shard_size)

    def cut(self) -> None:
        """End the shard here, with the rows it has."""
        self._drain(self._rows)

    def close(self) -> None:
        """Write what is left as the last, smaller shard, and end the last file."""
        self._drain(self._rows)
        self._end_file()

    def _drain(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        at = 0
        while at < rows:
            sink, writer = self._open = self._open or self._new_file()
            taken = min(rows - at, (FILE_SHARDS - self._groups) * self._shard_size)
            writer.write_table(table.slice(at, taken), row_group_size=self._shard_size)
            at += taken
            self._groups += -(-taken // self._shard_size)
            self._file_rows += taken
            if self._groups == FILE_SHARDS or sink.tell() >= FILE_BYTES:
                self._end_file()
        self._rows -= rows
        self._waiting = table.slice(rows).to_batches()

    def _new_file(self) -> tuple[pa.BufferOutputStream, pq.ParquetWriter]:
        sink = pa.BufferOutputStream()
        writer = pq.ParquetWriter(
            sink,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=["source", "uri", "raster"] if "raster" in self._schema.names else ["source"],
            write_statistics=False,
            write_page_checksum=True,
        )
        return sink, writer

    def _end_file(self) -> None:
        if self._open is None:
            return
        sink, writer = self._open
        writer.close()
        data = sink.getvalue().to_pybytes()
        path = f"_plans/{self.id}/manifest-{len(self.files):05d}.parquet"
        digest = hashlib.sha256(data).hexdigest()
        self.files.append(PlanFile(path, self._file_rows, digest, self._groups, len(data)))
        self._output.put(path, data)
        self._open, self._groups, self._file_rows = None, 0, 0
