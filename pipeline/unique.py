"""Makes every image id stand for one image, over all inputs of a job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.distinct import CONFLICT, DUPLICATE, NEW, Distinct, hashes
from pipeline.entries import Numbered, Tally, replace_column
from pipeline.sources import InputError, InputSource


class UniqueIds:
    """Judges rows in the order of the plan. Remembers 16 bytes a row, and nothing for a single folder."""

    def __init__(self, sources: Sequence[InputSource]) -> None:
        self._sources = sources
        self._needed = len(sources) > 1 or any(source.manifest for source in sources)
        self._seen = [Distinct() for _ in sources]

    def judge(self, index: int, numbered: Numbered, tally: Tally) -> pa.RecordBatch:
        """Drop the batch's repeated rows, and rename those that use an id of another image.

        A renamed row is `<id>~<row>` and has a `problem`. Raises InputError when two inputs use one id.
        """
        batch, numbers = numbered
        if not self._needed:
            return batch
        names = hashes(batch.column("image_id").to_pylist())
        uris = hashes(batch.column("uri").to_pylist())
        verdicts = np.full(batch.num_rows, NEW, np.int8)
        for other in range(index):
            there = self._seen[other].look_up(names, uris)
            self._refuse(batch, other, index, there)
            verdicts = np.maximum(verdicts, there)
        verdicts = np.maximum(verdicts, self._seen[index].add(names, uris))
        if (verdicts == CONFLICT).any():
            batch = self._rename(index, batch, numbers, np.flatnonzero(verdicts == CONFLICT))
        repeated = verdicts == DUPLICATE
        if not repeated.any():
            return batch
        tally.skipped["duplicate"] += int(repeated.sum())
        return batch.filter(pa.array(~repeated))

    def _refuse(self, batch: pa.RecordBatch, other: int, index: int, verdicts: NDArray[np.int8]) -> None:
        clashes = np.flatnonzero(verdicts == CONFLICT)
        if len(clashes):
            image_id = batch.column("image_id")[int(clashes[0])].as_py()
            raise InputError(
                f"image id {image_id!r} is in {self._sources[other].uri} and in {self._sources[index].uri}; "
                "give the inputs a `name` each, which is then put before their ids"
            )

    def _rename(
        self, index: int, batch: pa.RecordBatch, numbers: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> pa.RecordBatch:
        ids, problems = batch.column("image_id").to_pylist(), batch.column("problem").to_pylist()
        uris = batch.column("uri").to_pylist()
        for row in map(int, rows):
            problems[row] = (
                problems[row] or f"id {ids[row]!r} belongs to another image, earlier in the manifest"
            )
            ids[row] = self._free(index, f"{ids[row]}~{numbers[row]}", uris[row])
        renamed = replace_column(batch, "image_id", pa.array(ids, pa.string()))
        return replace_column(renamed, "problem", pa.array(problems, pa.string()))

    def _free(self, index: int, image_id: str, uri: str) -> str:
        while self._seen[index].add(hashes([image_id]), hashes([uri]))[0] != NEW:
            image_id += "~"
        return image_id
