"""What earlier generations of an output planned already: each object, by its URI and etag."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.distinct import CONFLICT, DUPLICATE, NEW, Distinct, Hashes, hashes
from pipeline.entries import BATCH_ROWS, Tally, replace_column
from pipeline.plan import Plan, PlanError
from pipeline.storage import NotFound, Store

MARK = 10
"""Characters that an id is made different by."""
COLUMNS = ["image_id", "uri", "etag"]


class Known:
    """The rows of earlier generations; remembers 48 bytes a row.

    An object that was planned with another etag has changed since: it is planned anew, as another image,
    `<id>@<digest>`, so the rows of both stand. Without an etag, then or now, it counts as unchanged.
    """

    def __init__(self) -> None:
        self._first = Distinct()
        """URIs, each with the etag it was first planned with."""
        self._versions = Distinct()
        """Pairs of both."""
        self._ids = Distinct()
        """Ids, each with its URI and etag."""

    @classmethod
    def of(cls, output: Store, plans: Sequence[Plan]) -> Known:
        """Read the manifests of plans. Raises PlanError when one is gone or broken, StoreError."""
        known = cls()
        for plan in plans:
            for batch in _rows(output, plan):
                known.add(batch)
        return known

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take rows in that are planned, or that were done with another etag than was planned."""
        names, uris, etags = (batch.column(name).to_pylist() for name in COLUMNS)
        self._first.add(hashes(uris), _etags(etags))
        self._versions.add(_pairs(uris, etags), _etags(etags))
        self._ids.add(hashes(names), _pairs(uris, etags))

    def fresh(self, batch: pa.RecordBatch, tally: Tally) -> pa.RecordBatch:
        """The rows of a batch that are not planned yet, those whose id is taken under one of their own.

        Counts in `tally` what is known and what has changed.
        """
        uris, etags = batch.column("uri").to_pylist(), batch.column("etag").to_pylist()
        first = self._first.look_up(hashes(uris), _etags(etags))
        bare = self._first.look_up(hashes(uris), _etags([None] * len(uris)))
        version = self._versions.look_up(_pairs(uris, etags), _etags(etags))
        nameless = np.fromiter((etag is None for etag in etags), bool, len(etags))
        planned = (version != NEW) | (bare == DUPLICATE) | (nameless & (first != NEW))
        tally.known += int(planned.sum())
        tally.changed += int((~planned & (first == CONFLICT)).sum())
        return self._named(batch.filter(pa.array(~planned)))

    def _named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Give an id of its own to each row whose id an earlier row has."""
        ids, uris, etags = (batch.column(name).to_pylist() for name in COLUMNS)
        taken = np.flatnonzero(self._ids.look_up(hashes(ids), _pairs(uris, etags)) != NEW)
        if not len(taken):
            return batch
        for row in map(int, taken):
            mark = hashlib.sha256(f"{uris[row]}\n{etags[row]}".encode()).hexdigest()[:MARK]
            ids[row] = f"{ids[row]}@{mark}"
        return replace_column(batch, "image_id", pa.array(ids, pa.string()))


def _rows(output: Store, plan: Plan) -> Iterator[pa.RecordBatch]:
    for file in plan.files:
        try:
            source = pa.PythonFile(output.reader(file.path, file.size), mode="r")
            yield from pq.ParquetFile(source, pre_buffer=True).iter_batches(BATCH_ROWS, columns=COLUMNS)
        except (pa.ArrowException, OSError, NotFound) as error:
            cause = str(error).partition("\n")[0]
            raise PlanError(f"{output.join(file.path)} cannot be read ({cause}); restore it") from None


def _etags(etags: list[str | None]) -> Hashes:
    return hashes([etag or "" for etag in etags])


def _pairs(uris: list[str], etags: list[str | None]) -> Hashes:
    return hashes([f"{uri}\n{etag or ''}" for uri, etag in zip(uris, etags, strict=True)])
