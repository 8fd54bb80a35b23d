"""A job's output without a model: what a worker would commit, of instances that are made up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from condinst import rle
from condinst.instances import Instances, RleMasks
from pipeline.commit import Commit, TableFile, Work, commit_key, public_key
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource, Plan, freeze, load_plan, read_shard
from pipeline.records import ImageRef, Status
from pipeline.rows import Outcome, count_values, images_table, instances_table, to_parquet
from pipeline.schemas import file_metadata
from pipeline.settings import SegmentSettings
from pipeline.storage import Store

NAMES = ("plant", "stone", "roof")
SIZE = (60, 80)
SHARD_SIZE = 4


def made_job(uri: str, inputs: Path, images: int = 10) -> Store:
    """A claimed output with its plan, of so many inputs in shards of four; nothing is committed."""
    inputs.mkdir(exist_ok=True)
    for number in range(images):
        (inputs / f"{number:03d}.png").write_bytes(b"never decoded")
    source = InputSource(str(inputs))
    settings = SegmentSettings(output=uri, sources=(source,), weights="demo", model_digest="d" * 64)
    store = Store.open(uri)
    Ledger(store).claim({"name": "made", **settings.job_record()})
    freeze([source], store, SHARD_SIZE, 0)
    return store


def made_output(uri: str, inputs: Path, images: int = 10) -> Store:
    """A complete output."""
    store = made_job(uri, inputs, images)
    for shard in plan_of(store).shard_ids():
        work(store, shard)
    return store


def plan_of(store: Store) -> Plan:
    return load_plan(store, 0)


def prepare(store: Store, shard: str, revision: int = 0) -> Commit:
    """What a worker does before it commits; returns the record that would."""
    ledger, job = Ledger(store), Ledger(store).job()
    attempt = ledger.begin(shard, "made")
    outcomes = [outcome_of(ref) for ref in read_shard(store, plan_of(store), int(shard.partition("-")[2]))]
    tables = {"instances": instances_table(outcomes, NAMES), "images": images_table(outcomes, attempt)}
    said = file_metadata(shard, attempt, str(job["fingerprint"]), str(job["model_digest"]))
    files = {name: to_parquet(table, said) for name, table in tables.items()}
    ledger.write(shard, attempt, files)
    return Commit(
        shard=shard,
        attempt=attempt,
        fingerprint=str(job["fingerprint"]),
        files={name: TableFile.of(data, tables[name].num_rows) for name, data in files.items()},
        counts=dict(Counter(str(outcome.status) for outcome in outcomes)),
        classes=count_values(tables["instances"]["category"]),
        instances=tables["instances"].num_rows,
        bytes=100,
        # Workers' clocks are one here; a later moment than the attempt's own millisecond.
        committed=int(attempt.partition("-")[0]) / 1000 + 0.5,
        work=Work(worker="made"),
        revision=revision,
    )


def work(store: Store, shard: str) -> Commit:
    """A shard from its start to its commit."""
    return Ledger(store).commit(prepare(store, shard))


def outcome_of(ref: ImageRef) -> Outcome:
    """Every fifth input is corrupt, the fourth of five is empty, the others have two to four instances."""
    number = int(Path(ref.image_id).stem)
    if number % 5 == 4:
        return Outcome(ref, Status.CORRUPT, error="cut off")
    if number % 5 == 3:
        return Outcome(ref, Status.EMPTY, size=SIZE)
    return Outcome(ref, Status.OK, size=SIZE, found=_found(number, 2 + number % 3))


def _found(seed: int, count: int) -> Instances:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        height, width = (int(v) for v in rng.integers(4, 20, 2))
        pixels = rng.random((height, width)) < 0.6
        pixels[[0, -1], :] = pixels[:, [0, -1]] = True
        masks.append((int(rng.integers(0, 60)), int(rng.integers(0, 40)), pixels))
    x, y = (np.array([mask[at] for mask in masks], np.int32) for at in (0, 1))
    height, width = (np.array([mask[2].shape[at] for mask in masks], np.int32) for at in (0, 1))
    area = np.array([mask[2].sum() for mask in masks], np.int64)
    boxes = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
    return Instances(
        boxes=boxes,
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
        classes=np.arange(count) % len(NAMES),
        masks=RleMasks(x, y, height, width, area, [rle.encode(mask[2]) for mask in masks]),
    )


def rewrite(
    store: Store, shard: str, table: str, change: Callable[[pa.Table], pa.Table], tell: bool = True
) -> None:
    """Change a shard's public file; `tell` makes its record describe the file that is there then."""
    data = pq.read_table(BytesIO(store.get(public_key(table, shard))))
    changed = change(data)
    sink = BytesIO()
    pq.write_table(changed, sink)
    store.put(public_key(table, shard), sink.getvalue())
    if tell:
        file = TableFile.of(sink.getvalue(), changed.num_rows)
        rerecord(store, shard, lambda record: replace(record, files={**record.files, table: file}))


def rerecord(store: Store, shard: str, change: Callable[[Commit], Commit]) -> None:
    """Change a shard's record."""
    record = Commit.from_json(store.get(commit_key(shard)).decode())
    store.put(commit_key(shard), change(record).to_json().encode())


def edit(row: int, **columns: Any) -> Callable[[pa.Table], pa.Table]:
    """A change of one row's values; a callable is given the old one."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for name, value in columns.items():
            rows[row][name] = value(rows[row][name]) if callable(value) else value
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


def edit_json(store: Store, key: str, **values: Any) -> None:
    """Change some fields of a JSON object."""
    store.put(key, json.dumps({**json.loads(store.get(key)), **values}).encode())


def contents(store: Store) -> dict[str, str]:
    """Every object with its digest."""
    return {info.key: hashlib.sha256(store.get(info.key)).hexdigest() for info in store.list()}
