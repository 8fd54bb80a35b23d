"""From what became of a shard's inputs to the two tables' files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from condinst.instances import Instances
from pipeline.records import ImageRef, Status
from pipeline.schemas import BBOX_TYPE, CATEGORY_TYPE, INSTANCES_SCHEMA, MASK_TYPE, images_schema

ERROR_LENGTH = 500
"""Most characters of a reason in `images.error`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    ref: ImageRef
    status: Status
    error: str | None = None
    bytes: int | None = None
    """Bytes read; None when nothing could be."""
    etag: str | None = None
    size: tuple[int, int] | None = None
    """(height, width) of the decoded image."""
    found: Instances | None = None
    decode_ms: float | None = None
    infer_ms: float | None = None
    capped: int = 0
    """How many of its windows, 1 for an input without, hold as many instances as a model may find in one."""
    tiles: int | None = None
    """Windows it was cut into."""
    crs: str | None = None
    transform: Sequence[float] | None = None
    """From its pixels to the CRS (`pipeline.geo.georef`)."""
    streamed: int | None = None
    """Its instances, where they are not held in `found`."""

    @property
    def instances(self) -> int:
        """Rows this input has in `instances`."""
        if self.streamed is not None:
            return self.streamed
        return 0 if self.found is None else len(self.found)


def visible(found: Instances) -> Instances:
    """The instances whose mask has a pixel, in their order."""
    keep = found.masks.area > 0
    return Instances(found.boxes[keep], found.scores[keep], found.classes[keep], found.masks[keep])


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """How many rows have each value of a column of text, values that occur, in their order."""
    counts: Counter[str] = Counter(column.cast(pa.string()).to_pylist())
    return dict(sorted(counts.items()))


def instances_table(outcomes: Sequence[Outcome], names: Sequence[str]) -> pa.Table:
    """Rows of `instances`: inputs in the given order, an input's instances by falling score.

    `names` are the model's classes; `category_id` counts them from 1, as COCO does.
    """
    with_rows = [o for o in outcomes if o.found is not None and len(o.found)]
    if not with_rows:
        return INSTANCES_SCHEMA.empty_table()
    found = [o.found for o in with_rows if o.found is not None]
    numbers = np.array([len(f) for f in found])
    classes = np.concatenate([f.classes for f in found])
    masks = {
        name: np.concatenate([getattr(f.masks, name) for f in found])
        for name in ("x", "y", "height", "width", "area")
    }
    sizes = np.repeat(np.array([o.size for o in with_rows]), numbers, axis=0)
    counts = [run for f in found for run in f.masks.counts]
    columns = [
        pa.array(
            np.repeat(np.array([o.ref.image_id for o in with_rows], dtype=object), numbers), pa.string()
        ),
        pa.array(np.concatenate([np.arange(n) for n in numbers]), pa.int32()),
        pa.array(classes + 1, pa.int32()),
        pa.DictionaryArray.from_arrays(pa.array(classes, pa.int32()), pa.array(names, pa.string())),
        pa.array(np.concatenate([f.scores for f in found]), pa.float32()),
        _bbox_column(np.concatenate([f.boxes for f in found])),
        pa.array(masks["area"], pa.int64()),
        _mask_column(masks, counts),
        pa.array(_touches_edge(masks, sizes), pa.bool_()),
        pa.nulls(len(classes), pa.binary()),
    ]
    assert columns[3].type == CATEGORY_TYPE
    return pa.Table.from_arrays(columns, schema=INSTANCES_SCHEMA)


def _bbox_column(boxes: NDArray[np.float32]) -> pa.StructArray:
    parts = (boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return pa.StructArray.from_arrays([pa.array(p, pa.float32()) for p in parts], fields=list(BBOX_TYPE))


def _mask_column(masks: Mapping[str, NDArray[np.int64]], counts: Sequence[bytes]) -> pa.StructArray:
    corners = [pa.array(masks[name], pa.int32()) for name in ("x", "y", "height", "width")]
    return pa.StructArray.from_arrays([*corners, pa.array(counts, pa.binary())], fields=list(MASK_TYPE))


def _touches_edge(masks: Mapping[str, NDArray[np.int64]], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a mask has pixels on its image's edge; crops are tight, so theirs say it."""
    right, bottom = masks["x"] + masks["width"], masks["y"] + masks["height"]
    touching: NDArray[np.bool_] = (
        (masks["x"] == 0) | (masks["y"] == 0) | (right == sizes[:, 1]) | (bottom == sizes[:, 0])
    )
    return touching


def images_table(outcomes: Sequence[Outcome], attempt: str, extra: pa.Schema | None = None) -> pa.Table:
    """Rows of `images`, a row an input in the given order, with the passed-through columns of `extra`."""
    schema = images_schema(extra)
    rows = [_image_row(outcome, attempt) for outcome in outcomes]
    return pa.Table.from_pylist(rows, schema=schema)


def _image_row(outcome: Outcome, attempt: str) -> dict[str, object]:
    height, width = outcome.size or (None, None)
    ours = {
        "image_id": outcome.ref.image_id,
        "uri": outcome.ref.uri,
        "etag": outcome.etag,
        "bytes": outcome.bytes,
        "status": str(outcome.status),
        "error": None if outcome.error is None else outcome.error[:ERROR_LENGTH],
        "width": width,
        "height": height,
        "instances": outcome.instances,
        "capped": outcome.capped,
        "tiles": outcome.tiles,
        "crs": outcome.crs,
        "transform": None if outcome.transform is None else list(outcome.transform),
        "decode_ms": outcome.decode_ms,
        "infer_ms": outcome.infer_ms,
        "attempt": attempt,
    }
    return {**outcome.ref.extra, **ours}


def to_parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A table as one Parquet file with fixed options: equal rows and metadata give equal bytes."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    sink = pa.BufferOutputStream()
    dictionary = [name for name in ("image_id", "category", "status") if name in table.column_names]
    pq.write_table(table, sink, compression="zstd", use_dictionary=dictionary, row_group_size=2**20)
    data: bytes = sink.getvalue().to_pybytes()
    return data
