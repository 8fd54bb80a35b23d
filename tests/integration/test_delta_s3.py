"""Publishing to S3 over HTTP: the same tables, with the job's own way to credentials and endpoint."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from pipeline.delta import publish, storage_options
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run
from tests.made import made_job, plan_of, work


def test_shards_are_appended_in_s3(s3_bucket: str, tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    uri = f"{s3_bucket}/lake"
    for number, shard in enumerate(plan_of(store).shard_ids()):
        work(store, shard)
        for _ in range(2):
            done = publish(Run(store), uri, StoreOptions())
            assert [table.version for table in done] == [number, number]
    target = Store.open(f"{uri}/instances")
    found = pa.table(DeltaTable(target.uri, storage_options=storage_options(target)).to_pyarrow_table())
    wanted = Run(store).instances()
    order = [("image_id", "ascending"), ("instance_id", "ascending")]
    assert found.sort_by(order).to_pylist() == wanted.sort_by(order).to_pylist()
