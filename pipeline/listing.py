"""Everything below a folder or prefix, as rows of a manifest, in the order of the keys' bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from pipeline.entries import BATCH_ROWS, Numbered, Tally, entries
from pipeline.globs import matcher
from pipeline.keys import printable
from pipeline.objects import NotFound, ObjectInfo
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store

_MARKERS = ("/", "_$folder$")
"""How names of objects end that only make an empty folder visible: in S3's console, in Hadoop."""


class Folder:
    """One input that is a folder, a prefix, or a single object."""

    def __init__(self, index: int, source: InputSource, output: Store | None) -> None:
        self._index = index
        self._source = source
        self._store = Store.open(source.uri, source.options)
        self._look = matcher(source.include, source.exclude)
        self._own = self._output_below(output)
        self.extra = pa.schema([])

    def batches(self, schema: pa.Schema, tally: Tally) -> Iterator[Numbered]:
        """Yield the images below the input's URI; counts in `tally` what is left out, and why.

        Raises InputError for a folder that does not exist, StoreError when it cannot be listed.
        """
        store = self._store
        if store.local and not os.path.exists(store.uri):
            raise InputError(f"input {printable(store.uri)} does not exist; correct its uri")
        before = tally.seen
        wanted, first = self._wanted(store.list(), tally), 1
        while infos := list(islice(wanted, BATCH_ROWS)):
            batch = self._batch(schema, store, infos)
            yield batch, np.arange(first, first + batch.num_rows)
            first += batch.num_rows
        if tally.seen == before and (lone := self._lone()):
            parent, info = lone
            if wanted_one := list(self._wanted(iter([info]), tally)):
                yield self._batch(schema, parent, wanted_one), np.ones(1, np.int64)

    def _wanted(self, infos: Iterator[ObjectInfo], tally: Tally) -> Iterator[ObjectInfo]:
        for info in infos:
            tally.seen += 1
            tally.example = tally.example or printable(info.key)
            if reason := self._left_out(info):
                tally.skipped[reason] += 1
            else:
                yield info

    def _left_out(self, info: ObjectInfo) -> str | None:
        if info.size == 0 and (not info.key or info.key.endswith(_MARKERS)):
            return "folder_marker"
        if self._own is not None and info.key.startswith(self._own):
            return "own_output"
        return self._look(info.key)

    def _batch(self, schema: pa.Schema, store: Store, infos: list[ObjectInfo]) -> pa.RecordBatch:
        keys = [printable(info.key) for info in infos]
        above = f"{self._source.name}/" if self._source.name else ""
        return entries(
            schema,
            self._index,
            image_id=[above + key for key in keys] if above else keys,
            uri=[store.join(key) for key in keys],
            etag=[info.etag for info in infos],
            size=[info.size for info in infos],
            problem=[store.problem(info.key) for info in infos],
        )

    def _lone(self) -> tuple[Store, ObjectInfo] | None:
        """The object that the URI itself names, when nothing lies below it."""
        parent, _, name = self._store.uri.rpartition("/")
        if not name or parent.endswith(":/"):
            return None
        store = Store.open(parent or "/", self._source.options)
        try:
            return store, store.head(name)
        except NotFound:
            return None

    def _output_below(self, output: Store | None) -> str | None:
        """Prefix of the job's own output among this input's keys: its tables are not images to segment."""
        if output is None:
            return None
        inside, outside = output.join(""), self._store.join("")
        if inside == outside:
            raise InputError(
                f"{output.uri} is both an input and the output; name another folder for the output"
            )
        return inside[len(outside) :] if inside.startswith(outside) else None
