"""A run's tables written anew with fewer instances, as an output of its own; the model does not run.

The new output has the old one's plan, its own fingerprint (the settings and the conditions), and a commit a
shard by the same protocol: it is resumed, verified and read as any other. Every input keeps its row in
`images`; an image left without instances is `empty`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.commit import Commit, TableFile, Work
from pipeline.export.selection import Selection
from pipeline.ledger import Ledger, LedgerError
from pipeline.manifest import load_plan
from pipeline.plan import plan_bytes, plan_key
from pipeline.records import Status
from pipeline.rows import count_values, to_parquet
from pipeline.schemas import file_metadata
from pipeline.storage import Store
from pipeline.tables import GEO, Run

_NOT_ROWS = ("statuses", "classes")
ShardHeard = Callable[[int, int], None]
"""Hears how many of how many shards are done."""


def filter_run(
    run: Run, target: Store, selection: Selection, on_shard: ShardHeard = lambda done, known: None
) -> Ledger:
    """Write the rows for which `selection` holds to `target`, shard by shard; what is there already stays.

    The statuses of the selection do not count. Returns the new output's ledger. Raises FingerprintMismatch
    where `target` holds other rows, LedgerError where it has another plan, StoreError.
    """
    ledger = Ledger(target)
    ledger.start()
    job = ledger.claim(filtered_job(run, selection))
    _copy_plans(run, target)
    ledger.repair()
    left = set(ledger.pending(run.plans)) & set(run.shards)

    def rewrite(number: int, images: pa.Table, instances: pa.Table) -> None:
        _commit(ledger, job, run.commits[number], images, instances)

    for done, _ in enumerate(run.by_shard(rewrite, filter=selection.rows, shards=left), 1):
        on_shard(done, len(left))
    return ledger


def conditions(selection: Selection) -> dict[str, object]:
    """The conditions on instances that a selection makes, as plain values."""
    stated = {name: value for name, value in asdict(selection).items() if name not in _NOT_ROWS}
    stated["classes"] = list(selection.classes) or None
    return {name: value for name, value in stated.items() if value is not None}


def filtered_job(run: Run, selection: Selection) -> dict[str, object]:
    """The new output's `job.json`: the old one's, with the conditions among the settings."""
    known = run.job.get("settings")
    before: Mapping[str, object] = known if isinstance(known, Mapping) else {}
    earlier = before.get("filters")
    filters = [*(earlier if isinstance(earlier, list) else []), conditions(selection)]
    settings = {**before, "filters": filters, "filtered": run.job["fingerprint"]}
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return {
        **run.job,
        "settings": settings,
        "fingerprint": hashlib.sha256(canonical.encode()).hexdigest(),
        "filtered_from": run.store.uri,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _copy_plans(run: Run, target: Store) -> None:
    """Give the new output the old one's plans: their manifests first, as planning does."""
    for plan in run.plans:
        held = {info.key: info.size for info in target.list(f"_plans/{plan.id}/")}
        for file in plan.files:
            if held.get(file.path) != file.size:
                target.put(file.path, run.store.get(file.path))
        if plan.areas:
            target.put(plan.areas, run.store.get(plan.areas))
        key = plan_key(plan.generation)
        if not target.create(key, plan_bytes(plan)) and load_plan(target, plan.generation).id != plan.id:
            raise LedgerError(
                f"{target.join(key)} is another plan than that of {run.store.uri}; name another output"
            )


def _commit(
    ledger: Ledger, job: Mapping[str, object], before: Commit, images: pa.Table, instances: pa.Table
) -> None:
    attempt = ledger.begin(before.shard, "filter")
    place = pc.index_in(instances["image_id"], value_set=images["image_id"].combine_chunks())
    counts, instances = _numbered(place.to_numpy().astype(np.int64), images.num_rows, instances)
    images = _counted(images, counts, attempt)
    said = file_metadata(before.shard, attempt, str(job["fingerprint"]), str(job.get("model_digest", "")))
    tables = {"instances": instances, "images": images}
    files = {name: to_parquet(_only_geo(table), said) for name, table in tables.items()}
    ledger.write(before.shard, attempt, files)
    ledger.commit(
        Commit(
            shard=before.shard,
            attempt=attempt,
            fingerprint=str(job["fingerprint"]),
            files={name: TableFile.of(data, tables[name].num_rows) for name, data in files.items()},
            counts=count_values(images["status"]),
            classes=count_values(instances["category"]),
            instances=instances.num_rows,
            bytes=before.bytes,
            committed=time.time(),
            work=Work("filter"),
            capped=before.capped,
        )
    )


def _only_geo(table: pa.Table) -> pa.Table:
    """Without what the old file says of itself."""
    return table.replace_schema_metadata(
        {key: value for key, value in (table.schema.metadata or {}).items() if key == GEO}
    )


def _numbered(place: NDArray[np.int64], images: int, rows: pa.Table) -> tuple[NDArray[np.int64], pa.Table]:
    """How many instances each image has, and the rows numbered anew: 0, 1, ... by falling score."""
    counts = np.bincount(place, minlength=images)
    firsts = np.cumsum(counts) - counts
    numbers = pa.array(np.arange(len(place)) - firsts[place], pa.int32())
    at = rows.schema.get_field_index("instance_id")
    return counts, rows.set_column(at, rows.schema.field(at), numbers)


def _counted(images: pa.Table, counts: NDArray[np.int64], attempt: str) -> pa.Table:
    empty = pc.and_(pc.equal(images["status"], Status.OK.value), pa.array(counts == 0))
    columns = {
        "status": pc.if_else(empty, Status.EMPTY.value, images["status"]),
        "instances": pa.array(counts, pa.int32()),
        "attempt": pa.array([attempt] * images.num_rows, pa.string()),
    }
    for name, values in columns.items():
        at = images.schema.get_field_index(name)
        images = images.set_column(at, images.schema.field(at), values)
    return images
