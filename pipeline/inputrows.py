"""A job's inputs as one stream of rows for its manifest, each image once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.entries import Tally, entry_schema
from pipeline.known import Known
from pipeline.listing import Folder
from pipeline.schemas import collisions
from pipeline.sources import InputError, InputSource
from pipeline.storage import Store
from pipeline.unique import UniqueIds
from pipeline.usermanifest import UserManifest


class InputRows:
    """All inputs of a job as one stream of rows, in the job's order."""

    def __init__(
        self, sources: Sequence[InputSource], output: Store | None, known: Known | None = None
    ) -> None:
        """With `known` only the inputs marked `new` are read, and of their rows those that are not known."""
        _check_names(sources)
        self._sources, self._known = sources, known
        self._readers = [
            UserManifest(index, source) if source.manifest else Folder(index, source, output)
            for index, source in enumerate(sources)
        ]
        self.extra: pa.Schema = _united(
            [(reader.extra, source.uri) for reader, source in zip(self._readers, sources, strict=True)]
        )
        """Columns passed through from users' manifests."""
        self.schema = entry_schema(self.extra)

    def batches(self, tally: Tally) -> Iterator[pa.RecordBatch]:
        """Rows of `schema`, counted; raises InputError where ids collide or an input cannot be read."""
        unique = UniqueIds(self._sources)
        for index, reader in enumerate(self._readers):
            if self._known is not None and not self._sources[index].new:
                continue
            for numbered in reader.batches(self.schema, tally):
                kept = unique.judge(index, numbered, tally)
                if self._known is not None:
                    kept = self._known.fresh(kept, tally)
                tally.images += kept.num_rows
                tally.bytes += pc.sum(kept.column("bytes"), min_count=0).as_py()
                yield kept


def demand(tally: Tally, sources: Sequence[InputSource]) -> None:
    """Raise InputError when nothing is to be segmented, saying what was looked for and what is there."""
    if tally.images:
        return
    sought = "; ".join(_sought(source) for source in sources)
    if not tally.seen:
        raise InputError(f"no images: nothing lies at {sought}; check the uri")
    raise InputError(
        f"no images: none of {tally.seen:,} objects or rows is taken, such as {tally.example!r} ({sought}); "
        "check include and exclude"
    )


def _sought(source: InputSource) -> str:
    globs = [f"{word} {', '.join(given)}" for word, given in _globs(source) if given]
    return " ".join([source.uri, *globs])


def _globs(source: InputSource) -> list[tuple[str, tuple[str, ...]]]:
    return [("include", source.include), ("exclude", source.exclude)]


def _check_names(sources: Sequence[InputSource]) -> None:
    names = [source.name for source in sources if source.name is not None]
    for name in names:
        if not name or "/" in name:
            raise InputError(f"input name {name!r}: a name is not empty and holds no '/'")
        if names.count(name) > 1:
            raise InputError(f"two inputs are named {name!r}; names tell inputs apart")


def _united(parts: Sequence[tuple[pa.Schema, str]]) -> pa.Schema:
    """Schema of all passed-through columns. Raises InputError where inputs disagree or a name is taken."""
    united: dict[str, pa.Field] = {}
    for schema, uri in parts:
        if taken := collisions(schema.names):
            raise InputError(
                f"columns {', '.join(taken)} of {uri} have names of the images table's own columns; "
                "rename them in the manifest or leave them out of `columns`"
            )
        for field in schema:
            known = united.setdefault(field.name, field)
            if known.type != field.type:
                raise InputError(
                    f"column {field.name!r} is {field.type} in {uri} and {known.type} in another input"
                )
    return pa.schema(list(united.values()))
