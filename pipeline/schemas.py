"""The two tables' columns and what each file says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

SCHEMA_VERSION = "1"
TABLES = ("instances", "images")
"""Both tables, in the order in which their files become visible."""

VOLATILE_COLUMNS = ("uri", "etag", "decode_ms", "infer_ms", "attempt")
"""Columns that say where and when rather than what; two runs are equal without them."""

MASK_TYPE = pa.struct(
    [
        pa.field("x", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("counts", pa.binary(), nullable=False),
    ]
)
"""A mask: its crop's top left corner and size in pixels, and the crop as COCO compressed RLE."""

BBOX_TYPE = pa.struct(
    [pa.field(name, pa.float32(), nullable=False) for name in ("x", "y", "width", "height")]
)
CATEGORY_TYPE = pa.dictionary(pa.int32(), pa.string())

INSTANCES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("instance_id", pa.int32(), nullable=False),
        pa.field("category_id", pa.int32(), nullable=False),
        pa.field("category", CATEGORY_TYPE, nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("bbox", BBOX_TYPE, nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("mask", MASK_TYPE, nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("geometry", pa.binary()),
    ]
)
"""One row an instance: images in manifest order, an image's instances by falling score."""

COVERING = "geometry_bbox"
"""Not `bbox`, as is usual: that is the box in image pixels."""
COVERING_TYPE = pa.struct([pa.field(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
TILED_INSTANCES_SCHEMA = pa.schema(
    [*INSTANCES_SCHEMA, pa.field(COVERING, COVERING_TYPE), pa.field("area_m2", pa.float64())]
)
"""Of tiled jobs, whose images lie somewhere: also the geometry's bounds, and its square metres."""

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("instances", pa.int32(), nullable=False),
        pa.field("capped", pa.int32()),
        pa.field("tiles", pa.int32()),
        pa.field("crs", pa.string()),
        pa.field("transform", pa.list_(pa.float64())),
        pa.field("decode_ms", pa.float32()),
        pa.field("infer_ms", pa.float32()),
        pa.field("attempt", pa.string(), nullable=False),
    ]
)
"""One row an input, in manifest order; the columns passed through from the user's manifest follow."""


def images_schema(extra: pa.Schema | None = None) -> pa.Schema:
    """Schema of `images` with a manifest's passed-through columns after the project's own.

    Raises ValueError, naming them, for columns that have the name of one of ours (see `collisions`).
    """
    if extra is None:
        return IMAGES_SCHEMA
    taken = collisions(extra.names)
    if taken:
        raise ValueError(
            f"columns {', '.join(taken)} of the input's manifest have names of the images table's own "
            "columns; rename them in the manifest or leave them out of `columns`"
        )
    return pa.schema([*IMAGES_SCHEMA, *(field.with_nullable(True) for field in extra)])


def collisions(columns: Iterable[str]) -> list[str]:
    """Which of the columns a user wants passed through cannot be, for planning to refuse.

    Names are compared without case: DuckDB and most warehouses read them so.
    """
    ours = {name.lower() for name in IMAGES_SCHEMA.names}
    return sorted(name for name in columns if name.lower() in ours)


def file_metadata(shard: str, attempt: str, fingerprint: str, model_digest: str) -> Mapping[str, str]:
    """Key and value pairs of a table file's footer: which rows these are, and what made them."""
    return {
        "condinst.schema": SCHEMA_VERSION,
        "condinst.shard": shard,
        "condinst.attempt": attempt,
        "condinst.fingerprint": fingerprint,
        "condinst.model_digest": model_digest,
    }
