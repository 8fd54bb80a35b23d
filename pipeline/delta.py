"""A run published as two Delta tables, `instances` and `images`: one commit a table, of all that is new.

A shard's rows are a file named after the shard and its attempt, so the table's own log says which shards are
in it: publishing again adds what is missing, a shard that was retried replaces its file, and the same run
twice is no commit. Instances are committed first: a visible image row implies that its instances are visible.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError, DeltaProtocolError, SchemaMismatchError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from pipeline.commit import Commit
from pipeline.credentials import S3Access
from pipeline.keys import locate
from pipeline.objects import StoreOptions
from pipeline.storage import Store
from pipeline.tables import Run, TableName

_OWNER = "condinst run "
"""What a Delta table's description begins with; the run's fingerprint follows."""
TABLES: tuple[TableName, ...] = ("instances", "images")
"""In the order in which they are committed."""
_NAME = re.compile(r"\d{4,}-\d{6,}\.[^/]+\.parquet")
_STATISTICS = ("image_id", "category", "status", "score", "area", "width", "height")
"""Columns whose least and greatest value each file's entry tells, for readers to skip files by."""
ShardHeard = Callable[[int, int], None]
"""Hears how many of how many shards are written."""


class PublishError(Exception):
    """A Delta table that this run cannot be published to; the message says which, why, and what to do."""


@dataclass
class Published:
    """What publishing changed in one of the tables."""

    uri: str
    version: int = 0
    """Of the Delta table now."""
    added: int = 0
    """Shards that are new in it."""
    replaced: int = 0
    """Shards that were retried since they were published."""


@dataclass
class _Target:
    """One of the Delta tables, as it was found."""

    store: Store
    schema: pa.Schema
    table: DeltaTable | None
    files: frozenset[str]
    """Its files' names."""
    new: list[AddAction] = field(default_factory=list)
    """Entries of its new files."""

    def lacks(self, commit: Commit) -> bool:
        return _file_name(commit) not in self.files


def publish(
    run: Run, uri: str, options: StoreOptions, on_shard: ShardHeard = lambda done, known: None
) -> list[Published]:
    """Bring the Delta tables `uri`/instances and `uri`/images up to what the run has committed.

    Raises PublishError for a table of another run or one that was rewritten by another program, StoreError.
    """
    targets = {name: _found(run, name, f"{uri.rstrip('/')}/{name}", options) for name in TABLES}
    left = {c.shard for c in run.commits if any(target.lacks(c) for target in targets.values())}

    def write(number: int, images: pa.Table, instances: pa.Table) -> dict[TableName, AddAction]:
        commit, rows = run.commits[number], {"images": images, "instances": instances}
        return {name: _write(t, commit, rows[name]) for name, t in targets.items() if t.lacks(commit)}

    for done, added in enumerate(run.by_shard(write, shards=left), 1):
        for name, action in added.items():
            targets[name].new.append(action)
        on_shard(done, len(left))
    return [_commit(run, targets[name]) for name in TABLES]


def _found(run: Run, name: TableName, uri: str, options: StoreOptions) -> _Target:
    """The table as it stands. Raises PublishError unless it is this run's, or not there."""
    store = Store.open(uri, options)
    schema = pa.schema([_plain(column) for column in run.schema(name)])
    try:
        table = DeltaTable(_address(store), storage_options=storage_options(store))
    except TableNotFoundError:
        return _Target(store, schema, None, frozenset())
    except (DeltaError, DeltaProtocolError, OSError) as error:
        raise PublishError(f"{uri} cannot be read as a Delta table: {_first_line(error)}") from None
    said = table.metadata().description or ""
    if said != _owner(run):
        whose = "a run with other settings" if said.startswith(_OWNER) else "no run of this program"
        raise PublishError(f"{uri} is a Delta table of {whose}; name another place")
    files = frozenset(pa.table(table.get_add_actions())["path"].to_pylist())
    if strange := sorted(file for file in files if not _NAME.fullmatch(file)):
        raise PublishError(
            f"{uri} was rewritten by another program ({strange[0]}): which shards are in it cannot be told; "
            "publish to a new place"
        )
    return _Target(store, schema, table, files)


def _owner(run: Run) -> str:
    return f"{_OWNER}{run.job['fingerprint']}"


def _plain(column: pa.Field) -> pa.Field:
    """A column as Delta has it: text is text."""
    return column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _file_name(commit: Commit) -> str:
    return f"{commit.shard}.{commit.attempt}.parquet"


def _write(target: _Target, commit: Commit, rows: pa.Table) -> AddAction:
    """Write a shard's file; not part of the table until it is committed."""
    rows = rows.replace_schema_metadata().cast(target.schema)
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    name = _file_name(commit)
    target.store.put(name, sink.getvalue())
    size = sink.getbuffer().nbytes
    return AddAction(name, size, {}, int(commit.committed * 1000), True, json.dumps(_statistics(rows)))


def _statistics(rows: pa.Table) -> dict[str, object]:
    least: dict[str, object] = {}
    greatest: dict[str, object] = {}
    for name in _STATISTICS:
        if name in rows.column_names:
            extremes = pc.min_max(rows[name]).as_py()
            if extremes["min"] is not None:
                least[name], greatest[name] = extremes["min"], extremes["max"]
    nulls = {name: rows[name].null_count for name in least}
    return {"numRecords": rows.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}


def _commit(run: Run, target: _Target) -> Published:
    """One commit of all that is new; none where nothing is."""
    done = Published(target.store.uri)
    current = {_file_name(commit) for commit in run.commits}
    stale = sorted(target.files - current)
    done.replaced, done.added = len(stale), len(target.new) - len(stale)
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        *target.new,
        *(RemoveAction(path, True, now) for path in stale),
    ]
    said = CommitProperties({"condinst.output": run.store.uri, "condinst.shards": str(len(target.new))})
    schema = Schema.from_arrow(target.schema)
    try:
        if target.table is None:
            create_table_with_add_actions(
                _address(target.store),
                schema,
                target.new,
                mode="error",
                description=_owner(run),
                storage_options=storage_options(target.store),
                commit_properties=said,
            )
        elif actions:
            # The credentials that the table was opened with may have ended since.
            table = DeltaTable(_address(target.store), storage_options=storage_options(target.store))
            table.create_write_transaction(actions, "append", schema, commit_properties=said)
        table = DeltaTable(_address(target.store), storage_options=storage_options(target.store))
    except (DeltaError, DeltaProtocolError, SchemaMismatchError, OSError) as error:
        raise PublishError(f"{target.store.uri}: the commit was refused: {_first_line(error)}") from None
    done.version = table.version()
    return done


def _address(store: Store) -> str:
    return f"file://{store.uri}" if store.local else store.uri


def storage_options(store: Store) -> dict[str, str]:
    """How deltalake reaches what `store` does; other clouds than S3 it finds in the environment itself."""
    place = locate(store.uri)
    if place.scheme != "s3":
        return {}
    access = S3Access(place.bucket, store.options)
    options = {
        "aws_endpoint": access.endpoint,
        "aws_region": access.region,
        "aws_virtual_hosted_style_request": str(not access.path_style).lower(),
        "aws_allow_http": str(access.endpoint.startswith("http://")).lower(),
        "aws_conditional_put": "etag",
    }
    if access.anonymous:
        return {**options, "aws_skip_signature": "true"}
    return {**options, **_keys(access.credentials())}


def _keys(found: Mapping[str, object]) -> dict[str, str]:
    names = {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "token": "aws_session_token",
    }
    return {ours: str(found[name]) for name, ours in names.items() if found.get(name)}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
