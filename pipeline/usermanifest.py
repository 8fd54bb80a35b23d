"""A list of images that the user gives, as rows of a frozen manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.columns import ColumnFile
from pipeline.entries import Numbered, Tally, entries
from pipeline.globs import matcher
from pipeline.keys import SIGNED, Location, addressable, locate, without_secrets
from pipeline.objects import StoreError
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store

_PART = r"[^/\x00-\x1f\x7f]+"
_REMOTE = rf"^(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/{_PART})+$"
_ON_DISK = rf"^(/{_PART})+$"
_RELATIVE = rf"^{_PART}(/{_PART})*$"


class UserManifest:
    """One input that is a Parquet or CSV file with a row an image."""

    def __init__(self, index: int, source: InputSource) -> None:
        self._index = index
        self._source = source
        folder, _, name = locate(source.uri).uri.rpartition("/")
        self._store = Store.open(folder or "/", source.options)
        self._base = locate(folder or "/")
        self._file = ColumnFile(self._store, name)
        self._look = matcher(source.include, source.exclude) if source.include or source.exclude else None
        self._file.require([*self._named(), *source.columns])
        self.extra = pa.schema([_plain(self._file.schema.field(name)) for name in source.columns])

    def batches(self, schema: pa.Schema, tally: Tally) -> Iterator[Numbered]:
        """Yield the listed images in the file's order; counts in `tally` what globs leave out.

        A row that names no image that can be asked for stays, with its `problem`. Raises InputError for a
        file that cannot be read, StoreError when its store fails.
        """
        columns = list(dict.fromkeys([*self._named(), *self._optional(), *self._source.columns]))
        first = 1
        for raw in self._file.batches(columns):
            tally.seen += raw.num_rows
            yield self._batch(schema, raw, first, tally)
            first += raw.num_rows

    def _batch(self, schema: pa.Schema, raw: pa.RecordBatch, first: int, tally: Tally) -> Numbered:
        uri, problem = self._resolve(self._text(raw, self._source.uri_column))
        path = _below(uri, self._store.join(""))
        image_id = self._text(raw, self._source.id_column) if self._source.id_column else path
        image_id, problem = _numbered(image_id, problem, first)
        if self._source.name:
            image_id = pc.binary_join_element_wise(f"{self._source.name}/", image_id, "")
        batch = entries(
            schema,
            self._index,
            image_id=image_id,
            uri=uri,
            etag=self._etags(raw, uri),
            size=self._sizes(raw),
            problem=problem,
            extra=self._extras(schema, raw),
        )
        tally.example = tally.example or next(iter(path.to_pylist()), None)
        rows = np.arange(first, first + batch.num_rows)
        if self._look is None:
            return batch, rows
        wanted = self._wanted(path, problem, tally)
        return batch.filter(pa.array(wanted)), rows[wanted]

    def _resolve(self, given: Any) -> tuple[Any, Any]:
        """Full URIs of a column as the user wrote it, and why those that cannot be asked for cannot."""
        # Whole columns at once for what is plainly in order; the rest, dotted parts too, one by one.
        signed = pc.match_substring_regex(given, SIGNED)
        dotted = pc.or_(pc.match_substring(given, "/."), pc.starts_with(given, "."))
        absolute = pc.match_substring_regex(given, _ON_DISK if self._store.local else _REMOTE)
        if self._store.local and pc.any(pc.invert(absolute)).as_py():
            absolute = pc.or_(absolute, pc.match_substring_regex(given, _REMOTE))
        uri, plain = given, absolute
        if not pc.all(absolute, skip_nulls=False).as_py():
            scheme = pc.match_substring(given, "://")
            relative = pc.and_not(pc.match_substring_regex(given, _RELATIVE), scheme)
            uri = pc.if_else(relative, pc.binary_join_element_wise(self._store.join(""), given, ""), given)
            plain = pc.or_(absolute, relative)
        odd = pc.invert(pc.fill_null(pc.and_not(pc.and_not(plain, dotted), signed), False))
        if not pc.any(odd).as_py():
            return uri, pa.nulls(len(given), pa.string())
        single = [self._resolve_one(text) for text in given.filter(odd).to_pylist()]
        fixed = pa.array([found.uri for found in single], pa.string())
        problems = pa.array([found.problem for found in single], pa.string())
        return (
            pc.replace_with_mask(uri, odd, fixed),
            pc.replace_with_mask(pa.nulls(len(given), pa.string()), odd, problems),
        )

    def _resolve_one(self, text: str | None) -> _Resolved:
        if not text:
            return _Resolved("", f"column {self._source.uri_column!r} is null")
        try:
            place = locate(text, trim=False) if "://" in text or text[0] == "/" else self._relative(text)
        except StoreError as error:
            return _Resolved(without_secrets(text), str(error))
        if place.scheme == "file" and not self._store.local:
            return _Resolved(text, "a manifest in object storage cannot name files on disk")
        return _Resolved(place.uri, addressable(place.path))

    def _relative(self, text: str) -> Location:
        """Resolve `.` and `..` against the manifest's folder; all other names mean what they say."""
        parts = self._base.path.split("/") if self._base.path else []
        for part in text.split("/"):
            if part == "..":
                if not parts:
                    raise StoreError(f"{text!r} leads out of {self._base.root}")
                parts.pop()
            elif part != ".":
                parts.append(part)
        return Location(self._base.scheme, self._base.bucket, "/".join(parts))

    def _wanted(self, path: Any, problem: Any, tally: Tally) -> NDArray[np.bool_]:
        assert self._look is not None
        reasons = [
            None if wrong else self._look(text)
            for text, wrong in zip(path.to_pylist(), problem.to_pylist(), strict=True)
        ]
        tally.skipped.update(reason for reason in reasons if reason)
        return np.array([reason is None for reason in reasons], bool)

    def _named(self) -> Sequence[str]:
        return [self._source.uri_column, *([self._source.id_column] if self._source.id_column else [])]

    def _optional(self) -> Sequence[str]:
        """Columns `bytes` and `etag`, where the file has them and they are such."""
        schema = self._file.schema
        kinds = {name: schema.field(name).type for name in ("bytes", "etag") if schema.names.count(name) == 1}
        text = {name for name, kind in kinds.items() if _is_text(kind)}
        whole = {name for name, kind in kinds.items() if pa.types.is_integer(kind)}
        return [name for name in kinds if name in text or (name == "bytes" and name in whole)]

    def _text(self, raw: pa.RecordBatch, name: str) -> Any:
        return self._cast(raw, name, pa.string(), "text")

    def _sizes(self, raw: pa.RecordBatch) -> Any:
        return self._cast(raw, "bytes", pa.int64(), "whole numbers") if "bytes" in self._optional() else None

    def _etags(self, raw: pa.RecordBatch, uri: Any) -> Any:
        """The etags given, save those of files on disk, which have none that a user could know."""
        if "etag" not in self._optional():
            return None
        bare = pc.utf8_trim(self._text(raw, "etag"), '"')
        return pc.if_else(pc.starts_with(uri, "/"), pa.scalar(None, pa.string()), bare)

    def _extras(self, schema: pa.Schema, raw: pa.RecordBatch) -> Any:
        if "extra" not in schema.names:
            return None
        fields = list(schema.field("extra").type)
        columns = [
            self._cast(raw, f.name, f.type, str(f.type))
            if f.name in self._source.columns
            else pa.nulls(raw.num_rows, f.type)
            for f in fields
        ]
        return pa.StructArray.from_arrays(columns, fields=fields)

    def _cast(self, raw: pa.RecordBatch, name: str, kind: pa.DataType, words: str) -> Any:
        try:
            return raw.column(name).cast(kind)
        except pa.ArrowException as error:
            cause = str(error).partition("\n")[0][:200]
            raise InputError(
                f"column {name!r} of manifest {self._file.uri} must hold {words}: {cause}"
            ) from None


@dataclass(frozen=True)
class _Resolved:
    uri: str
    problem: str | None


def _below(uri: Any, folder: str) -> Any:
    """Path of each URI below the folder; the whole URI where it lies elsewhere."""
    inside = pc.starts_with(uri, folder)
    if not pc.any(inside).as_py():
        return uri
    return pc.if_else(inside, pc.utf8_slice_codeunits(uri, len(folder)), uri)


def _numbered(image_id: Any, problem: Any, first: int) -> tuple[Any, Any]:
    """Name the rows that have no id after their number; those of an id column are a problem for it."""
    nameless = pc.fill_null(pc.equal(pc.binary_length(image_id), 0), True)
    if not pc.any(nameless).as_py():
        return image_id, problem
    numbers = [f"row-{first + at}" for at, bare in enumerate(nameless.to_pylist()) if bare]
    named = pc.replace_with_mask(image_id, nameless, pa.array(numbers, pa.string()))
    no_id = pc.if_else(nameless, pa.scalar("the manifest gives it no id"), pa.scalar(None, pa.string()))
    return named, pc.coalesce(problem, no_id)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(field: pa.Field) -> pa.Field:
    """The field as the tables hold it: dictionaries by their values, everything nullable, no metadata."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind)
