"""Writes the `instances` of a stitch shard batch by batch, with their places on the map."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from mmap import ACCESS_READ, mmap
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from condinst.instances import Instances
from pipeline.geo.geoparquet import PLACED, geo_columns, geo_metadata, no_geo_columns
from pipeline.geo.georef import Georef
from pipeline.geo.polygons import on_map
from pipeline.records import ImageRef, Status
from pipeline.rows import Outcome, count_values, instances_table
from pipeline.schemas import TILED_INSTANCES_SCHEMA

_DICTIONARY = ["image_id", "category"]


class InstancesFile:
    """One Parquet file, on the local disk until it is stored. Equal rows give equal bytes."""

    def __init__(self, names: Sequence[str], crs: str, said: Mapping[str, str]) -> None:
        """`names` are the model's classes, `crs` that of the geometries (or empty), `said` the footer."""
        self.rows = 0
        self.classes: Counter[str] = Counter()
        """Rows by class."""
        self._names, self._crs = names, crs
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close, or with this
        # The geometries' bounds are no part of this: a footer is begun before they are known.
        schema = TILED_INSTANCES_SCHEMA.with_metadata({**said, **(geo_metadata(crs) if crs else {})})
        sink = pa.PythonFile(self._file, mode="w")
        self._writer = pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=_DICTIONARY)

    def add(
        self, ref: ImageRef, size: tuple[int, int], found: Instances, first: int, georef: Georef | None
    ) -> None:
        """Write the next instances of an image of `size` (height, width), numbered from `first`.

        Raises ValueError where an instance has no place in the CRS.
        """
        table = instances_table([Outcome(ref, Status.OK, size=size, found=found)], self._names)
        columns: dict[str, Any] = {name: table[name] for name in table.column_names}
        columns["instance_id"] = pa.array(np.arange(first, first + len(found)), pa.int32())
        columns |= self._placed(found, georef)
        self._writer.write_table(
            pa.Table.from_arrays(
                [columns[field.name] for field in TILED_INSTANCES_SCHEMA], schema=TILED_INSTANCES_SCHEMA
            )
        )
        self.rows += len(found)
        self.classes.update(count_values(table["category"]))

    def close(self) -> mmap:
        """End the file and return it, mapped: its pages are the kernel's to take away."""
        self._writer.close()
        self._file.flush()
        data = mmap(self._file.fileno(), 0, access=ACCESS_READ)
        self._file.close()
        return data

    def _placed(self, found: Instances, georef: Georef | None) -> dict[str, pa.Array]:
        if georef is None or not self._crs:
            return dict(zip(PLACED, no_geo_columns(len(found)), strict=True))
        return dict(zip(PLACED, geo_columns(on_map(found.masks, georef, self._crs)), strict=True))
