"""The judge sees what it looks for: rows gone, doubled or changed, records made twice, images too early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import tables
from pipeline.commit import public_key
from pipeline.ledger import Ledger
from pipeline.storage import Store
from tests.integration.faults.judge import Outcome, Rows, compare, judge, read_journal
from tests.integration.faults.proxy import Entry
from tests.integration.faults.reader import reader
from tests.integration.faults.schedule import KINDS, Schedule
from tests.made import made_job, made_output, plan_of, prepare, rewrite, work


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return made_output(str(tmp_path / "out"), tmp_path / "in")


@pytest.fixture
def expected(output: Store) -> Rows:
    return Rows.of(tables.open(output.uri))


def test_an_output_as_it_should_be_is_well(output: Store, expected: Rows) -> None:
    assert judge(output, expected) == (Outcome.OK, "")


@pytest.mark.parametrize("table", ["images", "instances"])
def test_rows_lost_doubled_or_changed_are_told_apart(expected: Rows, table: str) -> None:
    rows: pa.Table = getattr(expected, table)
    doubled = pa.concat_tables([rows, rows.slice(0, 1)])
    name = "width" if table == "images" else "area"
    column = rows[name].combine_chunks()
    changed = rows.set_column(
        rows.column_names.index(name), rows.field(name), pa.array([7] * len(rows), column.type)
    )
    for wrong, outcome in ((rows.slice(1), "lost"), (doubled, "duplicated"), (changed, "differing")):
        assert compare(replace(expected, **{table: wrong}), expected)[0] == outcome


def test_a_public_file_of_another_attempt_is_seen(output: Store, expected: Rows) -> None:
    rewrite(output, plan_of(output).shard_ids()[0], "instances", lambda table: table.slice(1), tell=False)
    assert judge(output, expected)[0] is Outcome.DIFFERING


def test_a_shard_that_is_missing_is_seen(output: Store, expected: Rows) -> None:
    output.delete(["commits/0000-000001.json"])
    assert judge(output, expected)[0] is Outcome.LOST


def test_a_reader_complains_of_images_without_their_instances(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    with reader(store) as watching:
        work(store, "0000-000000")
    assert watching.complaints == []
    with reader(store) as watching:
        record = Ledger(store).commit(prepare(store, "0000-000001"))
        store.delete([public_key("instances", record.shard)])
    assert watching.complaints == ["images/0000-000001.parquet was there before its instances"]


def entry(key: str, began: int, ended: int, status: int = 200) -> Entry:
    return Entry("PUT", f"out/{key}", "record" if "commits/" in key else "publish", status, began, ended)


def test_the_journal_shows_a_record_created_twice() -> None:
    first, refused = entry("commits/a.json", 1, 2), entry("commits/a.json", 3, 4, 412)
    assert read_journal([first, refused]) == []
    assert read_journal([first, entry("commits/a.json", 3, 4)]) == ["out/commits/a.json was created 2 times"]


def test_the_journal_shows_images_that_did_not_wait_for_their_instances() -> None:
    images, told = (
        entry("images/a.parquet", 4, 5),
        ["out/images/a.parquet was published before its instances"],
    )
    assert read_journal([entry("instances/a.parquet", 1, 2), images]) == []
    assert read_journal([entry("instances/a.parquet", 1, 5), images]) == told
    assert read_journal([entry("instances/a.parquet", 1, 2, 404), images]) == told


def test_every_kind_of_fault_has_its_turn_and_a_seed_says_it_all() -> None:
    schedules = [Schedule.of(seed) for seed in range(len(KINDS))]
    assert [schedule.faults[0] for schedule in schedules] == list(KINDS)
    assert all(
        schedule.strikes or schedule.rules or schedule.disk or schedule.drivers > 1 for schedule in schedules
    )
    assert schedules == [Schedule.of(seed) for seed in range(len(KINDS))]
