"""The columns of a user's Parquet or CSV file, read a batch at a time from wherever it lies."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.entries import BATCH_ROWS
from pipeline.objects import NotFound
from pipeline.sources import InputError
from pipeline.storage import Store

_BLOCK = 4 << 20
"""Bytes read at a time."""
_HEADER = 1 << 20
"""Longest header line of a CSV file, in bytes."""


class ColumnFile:
    """One Parquet or CSV file. All columns of a CSV file are text, and its empty fields are null."""

    def __init__(self, store: Store, name: str) -> None:
        self.uri = store.join(name)
        self._store, self._name = store, name
        try:
            self._size = store.head(name).size
            self._is_csv = self._starts_as_text()
            self.schema: pa.Schema = self._csv_schema() if self._is_csv else pq.read_schema(self._open())
        except NotFound:
            raise InputError(f"manifest {self.uri} does not exist; correct the input's uri") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None

    def require(self, columns: Sequence[str]) -> None:
        """Raise InputError unless the file has each of the columns, once."""
        for name in columns:
            found = self.schema.names.count(name)
            if found == 0:
                known = ", ".join(self.schema.names[:30])
                raise InputError(f"manifest {self.uri} has no column {name!r}; it has {known}")
            if found > 1:
                raise InputError(f"manifest {self.uri} has {found} columns named {name!r}; rename them")

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield these columns. Raises InputError when the file turns out to be broken."""
        try:
            if self._is_csv:
                batches = self._csv_batches(columns)
            else:
                file = pq.ParquetFile(self._open(), pre_buffer=False, buffer_size=_BLOCK)
                batches = file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns))
            for batch in batches:
                batch.validate(full=True)  # Parquet's reader lets text through that is not UTF-8
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def _starts_as_text(self) -> bool:
        return self._store.get_range(self._name, 0, 4) != b"PAR1" if self._size else True

    def _open(self) -> pa.PythonFile:
        return pa.PythonFile(self._store.reader(self._name, self._size), mode="r")

    def _csv_schema(self) -> pa.Schema:
        if not self._size:
            raise InputError(f"manifest {self.uri} is empty; its first line must name its columns")
        try:
            text = self._store.get_range(self._name, 0, _HEADER).decode("utf-8-sig", errors="replace")
            names = next(csv.reader(io.StringIO(text, newline="")))
        except (csv.Error, StopIteration) as error:
            raise InputError(f"manifest {self.uri} is neither Parquet nor CSV: {error}") from None
        return pa.schema([(name, pa.string()) for name in names])

    def _csv_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        file = pa_csv.open_csv(
            self._open(),
            read_options=pa_csv.ReadOptions(block_size=_BLOCK),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(self.schema.names, pa.string()),
                include_columns=list(columns),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        yield from file

    def _unreadable(self, error: Exception) -> InputError:
        cause = str(error).partition("\n")[0]
        return InputError(f"manifest {self.uri} cannot be read: {cause[:300]}")
