"""A run as one COCO json: images, annotations with masks as compressed RLE, categories.

Annotations are put together in Arrow, a batch of rows at a time: no row becomes a Python object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.export.files import Place, whole_stream
from pipeline.export.selection import UNSIZED, Exported, Part, Selection, parts
from pipeline.rowmasks import combined, full_frame_counts
from pipeline.tables import Run

LOSSES = (
    "`truncated`, `geometry` and the images' statuses and errors are not in it",
    "image and annotation ids are numbers of this file; `file_name` is the table's image_id",
)
_COLUMNS = ("category_id", "category", "score", "bbox", "area", "mask")
_ROWS = 1 << 15
"""Annotations put together at a time."""
_NOT_PLAIN = r'["\\\x00-\x1f]'
"""What JSON escapes in text."""
_COORDINATES = ("x", "y", "width", "height")


def write_coco(run: Run, selection: Selection, path: Place) -> Exported:
    """Write the file `path`, which appears when it is whole.

    Images are numbered from 1 in plan order, annotations from 1; boxes are the model's, `area` is that of the
    mask. Images that were not decoded have no size and are left out. Raises TargetError, StoreError.
    """
    done = Exported()
    with whole_stream(path) as file:
        info = {"description": run.store.uri, "model_digest": str(run.job.get("model_digest", ""))}
        file.write(b'{"info":' + json.dumps(info).encode() + b',\n"images":[')
        numbers = _write_images(run, selection, file, done)
        file.write(b'],\n"annotations":[')
        categories = _write_annotations(run, selection, numbers, file, done)
        listed = [{"id": number, "name": name} for number, name in sorted(categories.items())]
        file.write(b'],\n"categories":' + json.dumps(listed).encode() + b"}\n")
    return done


def _write_images(run: Run, selection: Selection, file: IO[bytes], done: Exported) -> list[int]:
    """Write the images; returns how many come before each shard's."""
    counts = []
    for named, without_size in parts(run, selection, _images):
        file.write(
            _text(_join(',\n{"id":', _numbers(len(named), done.images), named), first=done.images == 0)
        )
        counts.append(len(named))
        done.images += len(named)
        if without_size:
            done.losses[UNSIZED] += without_size
    return list(accumulate(counts, initial=0))


def _images(part: Part) -> tuple[pa.Array, int]:
    """What follows each image's number, and how many have no size."""
    sized = part.images.filter(pc.is_valid(part.images["width"]))
    height, width = (_number(combined(sized[name])) for name in ("height", "width"))
    names = _quoted(combined(sized["image_id"]))
    texts = _join(',"file_name":', names, ',"height":', height, ',"width":', width, "}")
    return texts, part.images.num_rows - sized.num_rows


def _quoted(names: pa.Array) -> pa.Array:
    """Text as JSON's."""
    if pc.any(pc.match_substring_regex(names, _NOT_PLAIN)).as_py():
        return pa.array(
            [json.dumps(name, ensure_ascii=False) for name in names.to_pylist()], pa.large_string()
        )
    return _join('"', names.cast(pa.large_string()), '"')


def _numbers(count: int, before: int) -> pa.Array:
    """The numbers that follow `before`, as text."""
    return pc.cast(pa.array(np.arange(before + 1, before + count + 1)), pa.large_string())


def _write_annotations(
    run: Run, selection: Selection, numbers: list[int], file: IO[bytes], done: Exported
) -> dict[int, str]:
    """Write the instances; returns the categories met."""
    categories: dict[int, str] = {}

    def texts(part: Part) -> tuple[list[tuple[pa.Array, pa.Array]], dict[int, str]]:
        return list(_annotations(part, numbers[part.number])), part.categories()

    for batches, found in parts(run, selection, texts, instances=_COLUMNS):
        categories |= found
        for before, after in batches:
            numbered = _numbers(len(before), done.instances)
            file.write(_text(_join(before, numbered, after), first=done.instances == 0))
            done.instances += len(before)
    return categories


def _annotations(part: Part, images_before: int) -> Iterator[tuple[pa.Array, pa.Array]]:
    """What stands before and after each annotation's number, in batches."""
    height, width = part.values("height"), part.values("width")
    number = images_before + np.cumsum(part.images["width"].is_valid().to_numpy())
    heads = pa.array(
        [
            f',\n{{"image_id":{n},"iscrowd":0,"segmentation":{{"size":[{h},{w}],"counts":"'
            for n, h, w in zip(number.tolist(), height.tolist(), width.tolist(), strict=True)
        ],
        pa.large_string(),
    )
    for at in range(0, part.instances.num_rows, _ROWS):
        rows, place = part.instances.slice(at, _ROWS), part.place[at : at + _ROWS]
        columns = {name: combined(rows[name]) for name in _COLUMNS}
        counts = full_frame_counts(columns["mask"], height[place], width[place])
        escaped = pc.replace_substring(counts, "\\", "\\\\")
        before = _join(heads.take(pa.array(place)), escaped, '"},"id":')
        yield before, _rest(columns)


def _rest(columns: dict[str, pa.Array]) -> pa.Array:
    sides = [_number(pc.struct_field(columns["bbox"], name)) for name in _COORDINATES]
    category, area, score = (_number(columns[name]) for name in ("category_id", "area", "score"))
    box = (sides[0], ",", sides[1], ",", sides[2], ",", sides[3])
    return _join(',"category_id":', category, ',"area":', area, ',"score":', score, ',"bbox":[', *box, "]}")


def _number(column: pa.Array) -> pa.Array:
    """As text; a float32 with all the digits of its float64, so that it is read back as the same number."""
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    return column.cast(pa.large_string())


def _join(*pieces: pa.Array | str) -> pa.Array:
    wide = [pa.scalar(p, pa.large_string()) if isinstance(p, str) else p for p in (*pieces, "")]
    return pc.binary_join_element_wise(*wide)


def _text(rows: pa.Array, first: bool) -> memoryview:
    """All rows' characters; the very first row has no comma before it."""
    _, offsets, data = rows.buffers()
    bounds = np.frombuffer(offsets, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    begin = int(bounds[0]) + (1 if first and len(rows) else 0)
    return memoryview(data or b"")[begin : int(bounds[-1])]
