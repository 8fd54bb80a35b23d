"""A filtered output is an output: its rows are the chosen ones, and verify finds nothing wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely
from rich.console import Console

from jobs.errors import JobError
from jobs.filter import filter_output
from pipeline.export.selection import Selection
from pipeline.filtering import filter_run
from pipeline.geo.geoparquet import geo_metadata
from pipeline.ledger import FingerprintMismatch
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run, canonical
from pipeline.verify import Outcome, verify
from tests.made import contents, made_job, made_output, plan_of, rewrite, work
from tests.tiny import pictures
from tests.viewing import georeferenced, segment

VOLATILE = ["status", "instances", "attempt"]
TOLD = ("summary.json", "report.html")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_output(str(tmp_path / "out"), tmp_path / "in", images=22)


def told(output: str, to: str, **conditions: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    filter_output(output, to, Selection(**conditions), StoreOptions(), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "conditions",
    [
        {"min_score": 0.5},
        {"max_score": 0.2},
        {"classes": ("roof", "stone")},
        {"min_area": 90, "max_area": 200},
    ],
)
def test_the_rows_are_the_chosen_ones_and_verify_accepts_them(
    store: Store, tmp_path: Path, conditions: dict[str, Any]
) -> None:
    before = contents(store)
    said = told(store.uri, str(tmp_path / "to"), **conditions)
    target = Store.open(str(tmp_path / "to"))
    report = verify(target, full=True)
    assert (report.outcome, report.findings) == (Outcome.GOOD, [])
    old, new = Run(store), Run(target)
    chosen = old.instances(filter=Selection(**conditions).rows)
    assert 0 < chosen.num_rows < old.instances().num_rows
    columns = [name for name in chosen.column_names if name != "instance_id"]
    assert new.instances().select(columns).combine_chunks().equals(chosen.select(columns).combine_chunks())
    assert f"{chosen.num_rows} of {old.instances().num_rows} instances" in said
    assert (
        canonical(new.images())
        .drop_columns(["status", "instances"])
        .equals(canonical(old.images()).drop_columns(["status", "instances"]))
    )
    left = new.images()
    assert pc.sum(left["instances"]).as_py() == chosen.num_rows
    for row, was in zip(left.to_pylist(), old.images().to_pylist(), strict=True):
        assert row["status"] == (was["status"] if was["status"] != "ok" or row["instances"] else "empty")
    summary = json.loads(target.get("summary.json"))
    assert summary["instances"] == chosen.num_rows
    assert contents(store) == before


def test_again_does_nothing_and_other_conditions_are_refused(store: Store, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    told(store.uri, to, min_score=0.5)
    first = {k: v for k, v in contents(Store.open(to)).items() if k not in TOLD}
    told(store.uri, to, min_score=0.5)
    assert {k: v for k, v in contents(Store.open(to)).items() if k not in TOLD} == first
    with pytest.raises(FingerprintMismatch, match="filters"):
        told(store.uri, to, min_score=0.4)
    # A filtered output is filtered in its turn.
    told(to, str(tmp_path / "third"), classes=("roof",))
    third = Run(Store.open(str(tmp_path / "third")))
    wanted = (pc.field("score") >= 0.5) & (pc.field("category").cast(pa.string()) == "roof")
    assert third.instances().num_rows == Run(store).instances(filter=wanted).num_rows
    assert verify(third.store, full=True).outcome is Outcome.GOOD


def test_an_unfinished_run_is_filtered_as_far_as_it_is_and_then_on(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    shards = plan_of(store).shard_ids()
    work(store, shards[1])
    to = str(tmp_path / "to")
    assert "not complete" in told(store.uri, to, min_area=50)
    assert "report.html" not in contents(Store.open(to))
    assert verify(Store.open(to)).outcome is Outcome.INCOMPLETE
    for shard in (shards[0], shards[2]):
        work(store, shard)
    assert "not complete" not in told(store.uri, to, min_area=50)
    assert verify(Store.open(to), full=True).outcome is Outcome.GOOD


def test_a_filtered_output_has_its_own_report(tmp_path: Path) -> None:
    inputs = pictures(tmp_path / "in", 3)
    run = segment(inputs, str(tmp_path / "out"), include="**/*", score=0.01)
    before = run.instances()
    least = float(pc.quantile(before["score"], 0.7)[0].as_py())
    told(run.store.uri, str(tmp_path / "to"), min_score=least)
    filtered = Run(Store.open(str(tmp_path / "to")))
    page = filtered.store.get("report.html").decode()
    kept = filtered.instances().num_rows
    assert 0 < kept < before.num_rows
    assert f"<dt>instances</dt><dd>{kept:,}</dd>" in page
    assert str(filtered.job["fingerprint"]) in page
    # The images lie where the run found them.
    assert "with its instances drawn" in page
    assert "does not say where" not in page


def test_a_filtered_tiled_output_has_its_own_report(tmp_path: Path) -> None:
    run = georeferenced(tmp_path)
    told(run.store.uri, str(tmp_path / "to"), min_score=0.5)
    page = Store.open(str(tmp_path / "to")).get("report.html").decode()
    assert "with its instances drawn" in page


def test_a_filter_that_was_killed_goes_on(store: Store, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "to"))

    def die(done: int, known: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filter_run(Run(store), target, Selection(min_score=0.5), die)
    assert 2 <= len(Run(target).shards) < len(Run(store).shards)
    told(store.uri, target.uri, min_score=0.5)
    assert verify(target, full=True).outcome is Outcome.GOOD


def test_what_does_not_do_is_said(store: Store, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    with pytest.raises(JobError, match="no condition"):
        told(store.uri, to)
    with pytest.raises(JobError, match="is the output itself"):
        told(store.uri, store.uri, min_score=0.5)
    with pytest.raises(JobError, match="'tree': no instance"):
        told(store.uri, to, classes=("tree",))
    with pytest.raises(JobError, match="holds no job"):
        told(str(tmp_path / "nothing"), to, min_score=0.5)
    assert not Path(to).exists()


def test_geometries_and_what_a_file_says_of_them_stay(store: Store, tmp_path: Path) -> None:
    geo = geo_metadata("EPSG:32635")
    wkb = shapely.to_wkb(shapely.box(5e5, 6e6, 5e5 + 1, 6e6 + 1))

    def placed(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("geometry")
        column = pa.array([wkb] * table.num_rows, pa.binary())
        table = table.set_column(at, table.schema.field(at), column)
        return table.replace_schema_metadata({**table.schema.metadata, **geo})

    for shard in plan_of(store).shard_ids():
        rewrite(store, shard, "instances", placed)
    told(store.uri, str(tmp_path / "to"), min_score=0.5)
    target = Store.open(str(tmp_path / "to"))
    assert verify(target, full=True).findings == []
    assert set(Run(target).instances()["geometry"].to_pylist()) == {wkb}
