"""A sample of a job's inputs, the same each time, taken as they stream by."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa

from pipeline.entries import image_refs
from pipeline.records import ImageRef


class Sample:
    """Keeps the rows whose URI has the smallest checksums: any row is as likely as any other."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: pa.Table | None = None
        self._keys = np.empty(0, np.uint32)

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at rows."""
        uris = batch.column("uri").to_pylist()
        keys = np.fromiter((zlib.crc32(uri.encode()) for uri in uris), np.uint32, len(uris))
        # The kept rows of one batch first: what is joined stays as small as the sample.
        chosen = np.sort(np.argsort(keys, kind="stable")[: self._count])
        rows = pa.Table.from_batches([batch]).take(pa.array(chosen))
        joined = rows if self._kept is None else pa.concat_tables([self._kept, rows])
        together = np.concatenate((self._keys, keys[chosen]))
        best = np.sort(np.argsort(together, kind="stable")[: self._count])
        self._kept, self._keys = joined.take(pa.array(best)), together[best]

    @property
    def refs(self) -> list[ImageRef]:
        """The sample, in the order of the inputs."""
        return [] if self._kept is None else image_refs(self._kept)
