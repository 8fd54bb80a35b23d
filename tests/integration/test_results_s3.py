"""Results of a run in S3, over HTTP: filtered there, exported from there, compared, published."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from rich.console import Console

from jobs.diff import Request as Comparison
from jobs.diff import diff_runs
from jobs.export import Request, export_output
from jobs.filter import filter_output
from jobs.view import write_report
from pipeline.delta import publish, storage_options
from pipeline.diff import Kind
from pipeline.export.selection import Selection
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run
from pipeline.verify import Outcome, verify
from tests.made import made_job, made_output, plan_of, work


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


def test_a_run_in_s3_is_filtered_exported_and_compared(s3_bucket: str, tmp_path: Path) -> None:
    store = made_output(f"{s3_bucket}/masks", tmp_path / "in")
    console = Console(file=io.StringIO())
    sure = f"{s3_bucket}/sure"
    filter_output(store.uri, sure, Selection(min_score=0.5), StoreOptions(), console)
    assert verify(Store.open(sure), full=True).outcome is Outcome.GOOD
    rows = Run(store).instances().to_pylist()
    kept = sum(row["score"] >= 0.5 for row in rows)
    done = export_output(Request(sure, "coco", tmp_path / "x.json"), console)
    assert done.instances == len(json.loads((tmp_path / "x.json").read_text())["annotations"]) == kept
    found = diff_runs(Comparison(store.uri, sure, f"{s3_bucket}/d"), console)
    assert found.kinds == {Kind.SAME: kept, Kind.LOST: len(rows) - kept}
    written = ["diff.html", "diff.json", "differences.parquet"]
    assert [info.key for info in Store.open(f"{s3_bucket}/d").list()] == written
    write_report(sure, StoreOptions(), f"{s3_bucket}/pages/sure.html", console)
    assert Store.open(s3_bucket).get("pages/sure.html").startswith(b"<!doctype html>")
