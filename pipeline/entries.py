"""Rows of a frozen manifest: what they hold, made in columns, read back as `ImageRef`s."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import ImageRef, Window

BATCH_ROWS = 32_768
"""Rows that planning handles at a time."""
WINDOW = pa.struct([pa.field(name, pa.int32()) for name in ("x", "y", "width", "height")])
Numbered = tuple[pa.RecordBatch, NDArray[np.int64]]
"""Rows, and the number of each in its input, from 1."""
_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("source", pa.int32(), nullable=False),
    pa.field("etag", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("window", WINDOW),
    pa.field("problem", pa.string()),
]


RASTER = pa.field("raster", pa.string())
"""How a raster is read, in the manifests of tiled jobs alone."""


@dataclass
class Tally:
    """What planning has met so far."""

    images: int = 0
    bytes: int = 0
    """Of the images whose size is known."""
    seen: int = 0
    """Objects and rows looked at."""
    example: str | None = None
    """The first of them."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What is not an input of the job, by reason: `folder_marker`, `not_included`, `excluded`, `duplicate`,
    `own_output`."""
    known: int = 0
    """Objects that an earlier generation has."""
    changed: int = 0
    """Objects that an earlier generation has with another etag; they are images of this one too."""


def entry_schema(extra: pa.Schema, tiled: bool = False) -> pa.Schema:
    """Schema of a manifest whose images carry the columns `extra`: a struct beside the project's own."""
    fields = [*_FIELDS, RASTER] if tiled else _FIELDS
    return pa.schema([*fields, pa.field("extra", pa.struct(list(extra)))] if len(extra) else fields)


def entries(
    schema: pa.Schema,
    source: int,
    image_id: Any,
    uri: Any,
    etag: Any = None,
    size: Any = None,
    problem: Any = None,
    extra: Any = None,
    window: Any = None,
    raster: Any = None,
) -> pa.RecordBatch:
    """Make a batch of rows from columns (Arrow arrays or lists); those that are left out are null."""
    rows = len(image_id)
    given = {
        "image_id": image_id,
        "uri": uri,
        "etag": etag,
        "bytes": size,
        "problem": problem,
        "extra": extra,
        "window": window,
        "raster": raster,
    }
    given["source"] = pa.repeat(pa.scalar(source, pa.int32()), rows)
    return pa.record_batch([_column(given.get(f.name), f.type, rows) for f in schema], schema=schema)


def _column(values: Any, kind: pa.DataType, rows: int) -> Any:
    if values is None:
        return pa.nulls(rows, kind)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def replace_column(batch: pa.RecordBatch, name: str, values: Any) -> pa.RecordBatch:
    """Return the batch with one column's values replaced."""
    index = batch.schema.get_field_index(name)
    return batch.set_column(index, batch.schema.field(index), values)


def image_refs(table: pa.Table) -> list[ImageRef]:
    """Turn rows of a manifest into what workers pass around."""
    return [_ref(row) for row in table.to_pylist()]


def _ref(row: dict[str, Any]) -> ImageRef:
    return ImageRef(
        image_id=row["image_id"],
        uri=row["uri"],
        source=row["source"],
        etag=row["etag"],
        bytes=row["bytes"],
        window=None if row["window"] is None else Window(**row["window"]),
        raster=row.get("raster"),
        problem=row["problem"],
        extra=row.get("extra") or {},
    )
