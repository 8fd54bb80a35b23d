"""A published run is read by DuckDB, Polars and delta-rs as it is; published again it does not change."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rich.console import Console

from jobs.errors import JobError
from jobs.publish import publish_output
from pipeline.ledger import Ledger
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run
from tests.made import made_job, made_output, plan_of, prepare, work


def publish(store: Store, to: Path | str) -> tuple[list[Any], str]:
    console = Console(file=io.StringIO(), width=200)
    tables = publish_output(store.uri, str(to), StoreOptions(), console)
    return tables, str(console.file.getvalue())  # type: ignore[attr-defined]


def plain(rows: pa.Table) -> list[dict[str, Any]]:
    return sorted(rows.to_pylist(), key=lambda row: (row["image_id"], row.get("instance_id", 0)))


def test_three_readers_find_the_runs_rows(tmp_path: Path) -> None:
    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    tables, said = publish(store, tmp_path / "lake")
    assert [table.version for table in tables] == [0, 0]
    assert "3 shards added; version 0" in said
    run = Run(store)
    for name, wanted in (("instances", run.instances()), ("images", run.images())):
        uri = str(tmp_path / "lake" / name)
        delta = DeltaTable(uri)
        assert plain(pa.table(delta.to_pyarrow_table())) == plain(wanted)
        assert plain(polars.read_delta(uri).to_arrow()) == plain(wanted)
        dataset = delta.to_pyarrow_dataset()
        found = duckdb.sql("SELECT * FROM dataset").to_arrow_table()
        assert plain(found) == plain(wanted)
        assert dataset is not None
    skipped = DeltaTable(str(tmp_path / "lake" / "instances")).to_pyarrow_table(filters=[("score", ">", 0.9)])
    assert skipped.num_rows == sum(score > 0.9 for score in run.instances()["score"].to_pylist())


def test_again_is_no_commit_and_new_shards_are_one(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    shards = plan_of(store).shard_ids()
    work(store, shards[2])
    _, said = publish(store, tmp_path / "lake")
    assert "not complete" in said
    tables, said = publish(store, tmp_path / "lake")
    assert [(table.version, table.added) for table in tables] == [(0, 0), (0, 0)]
    assert "nothing new; version 0" in said
    work(store, shards[0])
    work(store, shards[1])
    tables, said = publish(store, tmp_path / "lake")
    assert [(table.version, table.added) for table in tables] == [(1, 2), (1, 2)]
    assert "not complete" not in said
    delta = DeltaTable(str(tmp_path / "lake" / "instances"))
    assert plain(pa.table(delta.to_pyarrow_table())) == plain(Run(store).instances())
    assert delta.history(1)[0]["condinst.shards"] == "2"


def test_a_retried_shard_replaces_its_rows(tmp_path: Path) -> None:
    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    publish(store, tmp_path / "lake")
    Ledger(store).commit(prepare(store, "0000-000001", revision=1))
    tables, said = publish(store, tmp_path / "lake")
    assert [(table.version, table.added, table.replaced) for table in tables] == [(1, 0, 1)] * 2
    assert "1 retried shard replaced" in said
    for name, wanted in (("instances", Run(store).instances()), ("images", Run(store).images())):
        assert plain(pa.table(DeltaTable(str(tmp_path / "lake" / name)).to_pyarrow_table())) == plain(wanted)


def test_publishing_that_died_is_taken_up(tmp_path: Path) -> None:
    """After the first table's commit, and with files of the second that no commit names."""
    import pipeline.delta as delta

    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    with pytest.MonkeyPatch.context() as patch:
        real, calls = delta._commit, []

        def dies(run: Run, target: Any) -> Any:
            if calls:
                raise KeyboardInterrupt
            calls.append(target)
            return real(run, target)

        patch.setattr(delta, "_commit", dies)
        with pytest.raises(KeyboardInterrupt):
            publish(store, tmp_path / "lake")
    assert DeltaTable.is_deltatable(str(tmp_path / "lake" / "instances"))
    assert not DeltaTable.is_deltatable(str(tmp_path / "lake" / "images"))
    publish(store, tmp_path / "lake")
    images = DeltaTable(str(tmp_path / "lake" / "images"))
    assert plain(pa.table(images.to_pyarrow_table())) == plain(Run(store).images())
    assert DeltaTable(str(tmp_path / "lake" / "instances")).version() == 0


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    write_deltalake(str(tmp_path / "theirs" / "instances"), pa.table({"a": [1]}))
    with pytest.raises(JobError, match="is a Delta table of no run of this program"):
        publish(store, tmp_path / "theirs")
    publish(store, tmp_path / "lake")
    DeltaTable(str(tmp_path / "lake" / "images")).optimize.compact()
    with pytest.raises(JobError, match="rewritten by another program"):
        publish(store, tmp_path / "lake")
    (tmp_path / "broken" / "images" / "_delta_log").mkdir(parents=True)
    (tmp_path / "broken" / "images" / "_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(JobError, match="cannot be read as a Delta table"):
        publish(store, tmp_path / "broken")
    with pytest.raises(JobError, match="holds no job"):
        publish(Store.open(str(tmp_path / "none")), tmp_path / "lake")
