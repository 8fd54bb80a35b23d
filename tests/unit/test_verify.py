"""An output is damaged in every way that can be told, and exactly that is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst import rle
from pipeline.commit import attempt_key, commit_key, public_key
from pipeline.findings import Fault
from pipeline.ledger import JOB_KEY, Ledger
from pipeline.plan import plan_key
from pipeline.rowcheck import mask_problem
from pipeline.storage import NotFound, Store
from pipeline.verify import Outcome, verify
from tests.made import (
    contents,
    edit,
    edit_json,
    made_job,
    made_output,
    plan_of,
    prepare,
    rerecord,
    rewrite,
    work,
)

SHARDS = ["0000-000000", "0000-000001", "0000-000002"]
FIRST, SECOND, LAST = SHARDS
Damage = Callable[[Store], None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_output(str(tmp_path / "out"), tmp_path / "in")


def row(shard: str, table: str, at: int, **columns: Any) -> Damage:
    """Change a row, and have the record describe the changed file."""
    return lambda store: rewrite(store, shard, table, edit(at, **columns))


def table(shard: str, name: str, change: Callable[[pa.Table], pa.Table], tell: bool = True) -> Damage:
    return lambda store: rewrite(store, shard, name, change, tell)


def mask(**fields: Any) -> Damage:
    """Change the first mask of the first shard."""
    return row(FIRST, "instances", 0, mask=lambda old: {**old, **fields})


def geometry(text: str) -> Damage:
    """Change the first geometry of the first shard."""
    return row(FIRST, "instances", 0, geometry=shapely.to_wkb(shapely.from_wkt(text)))


def record(shard: str = FIRST, **fields: Any) -> Damage:
    return lambda store: rerecord(store, shard, lambda old: replace(old, **fields))


def files(**fields: Any) -> Damage:
    def change(store: Store) -> None:
        rerecord(
            store,
            FIRST,
            lambda old: replace(old, files={**old.files, "images": replace(old.files["images"], **fields)}),
        )

    return change


def deleted(key: str) -> Damage:
    return lambda store: store.delete([key])


def manifest(store: Store) -> str:
    return plan_of(store).files[0].path


def flip(key: str | Callable[[Store], str]) -> Damage:
    """Change one byte in the middle of an object."""

    def change(store: Store) -> None:
        name = key if isinstance(key, str) else key(store)
        data = bytearray(store.get(name))
        data[len(data) // 2] ^= 1
        store.put(name, bytes(data))

    return change


def swapped(table: pa.Table) -> pa.Table:
    """The first two rows in the other order."""
    return table.take([1, 0, *range(2, table.num_rows)])


def drop(at: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.take([row for row in range(table.num_rows) if row != at])


def bloated(old: dict[str, Any]) -> dict[str, Any]:
    """The same pixels in a crop that is one column wider."""
    pixels = rle.decode(old["counts"], old["height"], old["width"])
    wider = np.pad(pixels, ((0, 0), (0, 1)))
    return {**old, "width": old["width"] + 1, "counts": rle.encode(wider)}


def smaller_manifest(store: Store) -> None:
    data = pq.read_table(BytesIO(store.get(manifest(store))))
    sink = BytesIO()
    pq.write_table(data.slice(1), sink, row_group_size=4)
    store.put(manifest(store), sink.getvalue())


def retitled(store: Store) -> None:
    """A record under another shard's name."""
    store.put(commit_key(SECOND), store.get(commit_key(FIRST)))


def later_revision(store: Store) -> None:
    edit_json(store, commit_key(FIRST), revision=1)
    store.put(commit_key(FIRST, 1), store.get(commit_key(FIRST)))
    store.delete([commit_key(FIRST)])


def footer(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, b"condinst.attempt": b"another"})


def recount(store: Store) -> None:
    """A record whose statuses add up, but are not those of the rows."""
    rerecord(store, FIRST, lambda old: replace(old, counts={"ok": 2, "empty": 2}))


def without_an_input(store: Store) -> None:
    """A corrupt input's row is gone, and the record does not count it either."""
    rewrite(store, SECOND, "images", drop(0))
    rerecord(store, SECOND, lambda old: replace(old, counts={**old.counts, "corrupt": 0}))


def shifted(old: str) -> str:
    return {"plant": "stone", "stone": "plant"}.get(old, old)


def renamed(store: Store) -> None:
    """The second shard's classes have other names than the first's."""

    def change(table: pa.Table) -> pa.Table:
        rows = [{**row, "category": shifted(row["category"])} for row in table.to_pylist()]
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewrite(store, SECOND, "instances", change)
    rerecord(store, SECOND, lambda old: replace(old, classes={shifted(n): c for n, c in old.classes.items()}))


INSTANCES, IMAGES = public_key("instances", FIRST), public_key("images", FIRST)
RECORD = commit_key(FIRST)

DAMAGES: dict[str, tuple[Damage, Fault, str, str]] = {
    "job.json gone": (deleted(JOB_KEY), Fault.JOB, JOB_KEY, "gone"),
    "job.json no JSON": (lambda s: s.put(JOB_KEY, b"{"), Fault.JOB, JOB_KEY, "not JSON"),
    "job.json's settings": (lambda s: edit_json(s, JOB_KEY, settings={}), Fault.JOB, JOB_KEY, "settings"),
    "plan gone": (deleted(plan_key(0)), Fault.PLAN, plan_key(0), "3 commits belong to it"),
    "plan no plan": (lambda s: s.put(plan_key(0), b"[]"), Fault.PLAN, plan_key(0), "no plan"),
    "plan changed": (lambda s: edit_json(s, plan_key(0), images=11), Fault.PLAN, plan_key(0), "contradicts"),
    "plan between gone": (
        lambda s: s.put(plan_key(1), s.get(plan_key(0)).replace(b'"generation": 0', b'"generation": 1'))
        or s.delete([plan_key(0), *map(commit_key, SHARDS)]),
        Fault.PLAN, plan_key(0), "later ones are there",
    ),
    "a stranger among plans": (lambda s: s.put("plans/x.json", b""), Fault.PLAN, "plans/x.json", "no plan"),
    "manifest gone": (lambda s: s.delete([manifest(s)]), Fault.MANIFEST, "_plans/", "missing"),
    "manifest's byte": (flip(manifest), Fault.MANIFEST, "_plans/", "sha256"),
    "manifest shorter": (smaller_manifest, Fault.MANIFEST, "_plans/", "bytes"),
    "record no JSON": (lambda s: s.put(RECORD, b"oops"), Fault.RECORD, RECORD, "not the commit record"),
    "record no text": (lambda s: s.put(RECORD, b"\xff"), Fault.RECORD, RECORD, "not the commit record"),
    "record of another version": (
        lambda s: edit_json(s, RECORD, version=9), Fault.RECORD, RECORD, "version 9",
    ),
    "record's field of another type": (
        lambda s: edit_json(s, RECORD, instances="many"), Fault.RECORD, RECORD, "instances",
    ),
    "record of another shard": (retitled, Fault.RECORD, commit_key(SECOND), f"shard {FIRST}"),
    "record before it gone": (later_revision, Fault.RECORD, commit_key(FIRST, 1), "earlier record"),
    "commit of no shard": (
        lambda s: s.put("commits/0000-000009.json", b"{}"), Fault.STRANGER, "commits/0000-000009", "no plan",
    ),
    "commit of a strange name": (
        lambda s: s.put("commits/notes.json", b"{}"), Fault.STRANGER, "commits/notes.json", "no plan",
    ),
    "other settings": (record(fingerprint="0" * 64), Fault.FINGERPRINT, RECORD, "other settings"),
    "instances gone": (deleted(INSTANCES), Fault.FILE, INSTANCES, "missing"),
    "images gone": (deleted(IMAGES), Fault.FILE, IMAGES, "missing"),
    "instances' byte": (flip(INSTANCES), Fault.FILE, INSTANCES, "sha256"),
    "images' byte": (flip(IMAGES), Fault.FILE, IMAGES, "sha256"),
    "images cut": (lambda s: s.put(IMAGES, s.get(IMAGES)[:-9]), Fault.FILE, IMAGES, "bytes"),
    "images of another shard": (
        lambda s: s.put(IMAGES, s.get(public_key("images", SECOND))), Fault.FILE, IMAGES, "bytes",
    ),
    "record's digest": (files(sha256="0" * 64), Fault.FILE, IMAGES, "sha256"),
    "record's size": (files(size=5), Fault.FILE, IMAGES, "5 were recorded"),
    "record's rows": (files(rows=5), Fault.ROWS, IMAGES, "4 rows, its record says 5"),
    "footer of another attempt": (table(FIRST, "images", footer), Fault.SCHEMA, IMAGES, "condinst.attempt"),
    "column gone": (
        table(FIRST, "images", lambda t: t.drop_columns(["status"])), Fault.SCHEMA, IMAGES, "status",
    ),
    "column of another type": (
        table(FIRST, "instances", lambda t: t.set_column(6, "area", t["area"].cast(pa.float64()))),
        Fault.SCHEMA, INSTANCES, "area",
    ),
    "an input without a row": (
        without_an_input,
        Fault.INPUTS, public_key("images", SECOND), "'004.png'",
    ),
    "another input's row": (
        row(FIRST, "images", 3, image_id="x.png"), Fault.INPUTS, IMAGES, "manifest says '003.png'",
    ),
    "inputs in another order": (
        table(SECOND, "images", swapped), Fault.INPUTS, public_key("images", SECOND), "row 0",
    ),
    "a status of another name": (
        row(FIRST, "images", 3, status="fine"), Fault.STATUS, IMAGES, "'fine'",
    ),
    "counts by status": (recount, Fault.COUNTS, IMAGES, "the rows are 1 empty, 3 ok"),
    "number of instances": (record(instances=1), Fault.COUNTS, INSTANCES, "the record says 1"),
    "counts by class": (record(classes={"plant": 9}), Fault.COUNTS, INSTANCES, "9 plant"),
    "images.instances": (row(FIRST, "images", 0, instances=7), Fault.INSTANCES, IMAGES, "'000.png'"),
    "instance ids": (row(FIRST, "instances", 1, instance_id=4), Fault.ORDER, INSTANCES, "'000.png'"),
    "rising scores": (row(FIRST, "instances", 1, score=1.0), Fault.SCORE, INSTANCES, "'000.png' instance 1"),
    "a score that is none": (row(FIRST, "instances", 0, score=float("nan")), Fault.SCORE, INSTANCES, "score"),
    "a mask's area": (row(FIRST, "instances", 0, area=3), Fault.MASK, INSTANCES, "area says 3"),
    "a mask that is no RLE": (mask(counts=b"~~~"), Fault.MASK, INSTANCES, "not a COCO"),
    "a mask of another size": (mask(counts=b"12"), Fault.MASK, INSTANCES, "its RLE has"),
    "a crop to the left of the image": (mask(x=-1), Fault.MASK, INSTANCES, "not inside its image"),
    "a crop below the image": (mask(y=59), Fault.MASK, INSTANCES, "not inside its image"),
    "a crop that is not tight": (
        row(FIRST, "instances", 0, mask=bloated, area=lambda a: a), Fault.MASK, INSTANCES, "larger than",
    ),
    "a class of two names": (renamed, Fault.CATEGORY, public_key("instances", SECOND), "'stone'"),
    "a geometry that is none": (
        row(FIRST, "instances", 0, geometry=b"no"), Fault.GEOMETRY, INSTANCES, "no WKB",
    ),
    "a geometry that crosses itself": (
        geometry("POLYGON ((0 0, 2 2, 2 0, 0 2, 0 0))"), Fault.GEOMETRY, INSTANCES, "not valid: Self-inter",
    ),
    "a geometry with a line beside it": (
        geometry("GEOMETRYCOLLECTION (POLYGON ((0 0, 1 0, 1 1, 0 0)), LINESTRING (1 1, 2 2))"),
        Fault.GEOMETRY, INSTANCES, "no polygon but a GeometryCollection",
    ),
    "a geometry of nothing": (geometry("POLYGON EMPTY"), Fault.GEOMETRY, INSTANCES, "no area"),
}  # fmt: skip


def test_an_undamaged_output_is_good_and_left_alone(store: Store) -> None:
    before = contents(store)
    report = verify(store, full=True)
    assert (report.outcome, report.findings) == (Outcome.GOOD, [])
    assert (report.shards, report.shards_planned, report.images, report.images_planned) == (3, 3, 10, 10)
    assert report.instances == report.masks == sum(commit.instances for commit in Ledger(store).records())
    assert report.statuses == {"ok": 6, "empty": 2, "corrupt": 2}
    assert contents(store) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_where_it_is(store: Store, name: str) -> None:
    damage, fault, where, words = DAMAGES[name]
    damage(store)
    report = verify(store, full=True)
    assert report.outcome is Outcome.DAMAGED
    assert {finding.fault for finding in report.findings} == {fault}, report.findings
    for finding in report.findings:
        assert finding.where.startswith(store.join(where))
        assert finding.remedy
    assert any(words in finding.what for finding in report.findings), report.findings


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (row(FIRST, "instances", 1, image_id="nowhere.png"), {Fault.IMAGE, Fault.INSTANCES, Fault.ORDER}),
        (row(FIRST, "images", 0, status="failed"), {Fault.IMAGE, Fault.INSTANCES, Fault.COUNTS}),
        (table(FIRST, "instances", drop(0)), {Fault.ORDER, Fault.INSTANCES, Fault.COUNTS}),
        (table(FIRST, "instances", swapped), {Fault.ORDER, Fault.SCORE}),
        (table(FIRST, "instances", lambda t: t.take([*range(2, t.num_rows), 0, 1])), {Fault.ORDER}),
    ],
    ids=["image unknown", "image not ok", "row gone", "rows swapped", "images out of order"],
)
def test_rows_that_contradict_several_others(store: Store, damage: Damage, faults: set[Fault]) -> None:
    damage(store)
    assert {finding.fault for finding in verify(store).findings} == faults


def test_shards_that_are_missing_are_no_damage(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    assert verify(store).outcome is Outcome.INCOMPLETE
    work(store, SECOND)
    report = verify(store)
    assert (report.outcome, report.missing, report.shards) == (Outcome.INCOMPLETE, [FIRST, LAST], 1)


def test_where_no_job_ran_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify(Store.open(str(tmp_path)))


@pytest.mark.parametrize("published", [(), ("instances",)])
def test_a_commit_on_its_way_to_its_public_names_is_no_damage(tmp_path: Path, published: tuple[str]) -> None:
    store = made_job(str(tmp_path / "out"), tmp_path / "in")
    work(store, FIRST), work(store, SECOND)
    record = prepare(store, LAST)
    store.put(commit_key(LAST), record.to_json().encode())
    for name in published:
        store.copy(attempt_key(LAST, record.attempt, name), public_key(name, LAST))
    report = verify(store)
    assert (report.outcome, report.unpublished, report.images) == (Outcome.INCOMPLETE, [LAST], 10)
    Ledger(store).repair()
    assert verify(store).outcome is Outcome.GOOD


def test_the_highest_revision_rules(store: Store) -> None:
    Ledger(store).commit(prepare(store, FIRST, revision=1))
    assert verify(store).outcome is Outcome.GOOD


def test_a_retry_that_commits_while_its_shard_is_looked_at(store: Store) -> None:
    class Overtaken(Store):
        """Its first look at a shard's file comes just after a newer revision was published."""

        def head(self, key: str) -> Any:
            if key == INSTANCES and commit_key(FIRST, 1) not in {i.key for i in store.list("commits/")}:
                Ledger(store).commit(prepare(store, FIRST, revision=1))
            return super().head(key)

    report = verify(Overtaken(store._location, store.options))
    assert (report.outcome, report.findings) == (Outcome.GOOD, [])


def test_orphans_are_counted_and_are_no_damage(store: Store) -> None:
    prepare(store, FIRST)
    store.put(public_key("images", "0000-000077"), b"left")
    report = verify(store)
    assert report.outcome is Outcome.GOOD
    assert report.leftovers is not None
    assert len(report.leftovers.orphans) + len(report.leftovers.waiting) == 2


def test_faults_of_one_kind_are_told_once_a_shard(store: Store) -> None:
    def all_areas(table: pa.Table) -> pa.Table:
        return table.set_column(6, table.schema.field("area"), pa.array([1] * table.num_rows, pa.int64()))

    rewrite(store, FIRST, "instances", all_areas)
    (finding,) = verify(store, full=True).findings
    assert "more like it" in finding.what


def test_the_sample_is_the_same_each_time_and_bounded(store: Store) -> None:
    assert verify(store, sample=0).masks == 0
    assert 0 < verify(store, sample=5).masks == verify(store, sample=5).masks <= 5
    row(FIRST, "instances", 0, area=3)(store)
    assert {verify(store, sample=2).outcome for _ in range(3)} in ({Outcome.GOOD}, {Outcome.DAMAGED})
    assert verify(store, full=True).outcome is Outcome.DAMAGED


def test_geometries_need_geoparquet(store: Store) -> None:
    shapely = pytest.importorskip("shapely")
    wkb = shapely.to_wkb(shapely.box(0, 0, 1, 1))
    row(FIRST, "instances", 0, geometry=wkb)(store)
    (finding,) = verify(store).findings
    assert (finding.fault, "GeoParquet" in finding.what) == (Fault.GEOMETRY, True)
    with_geo = table(
        FIRST, "instances", lambda t: t.replace_schema_metadata({**t.schema.metadata, b"geo": b"{}"})
    )
    with_geo(store)
    assert verify(store).outcome is Outcome.GOOD


def test_progress_is_told(store: Store) -> None:
    told: list[tuple[int, int]] = []
    verify(store, on_shard=lambda done, all: told.append((done, all)))
    assert told == [(1, 3), (2, 3), (3, 3)]


crops = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.lists(
        st.lists(st.booleans(), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
    )
)


@given(crops)
def test_a_mask_is_right_where_its_pixels_are(rows: list[list[bool]]) -> None:
    pixels = np.array(rows)
    tight = all(edge.any() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    area = int(pixels.sum())
    assert (mask_problem(rle.encode(pixels), *pixels.shape, area) is None) == tight
    assert mask_problem(rle.encode(pixels), *pixels.shape, area + 1) is not None
    assert mask_problem(rle.encode(pixels), pixels.shape[0] + 1, pixels.shape[1], area) is not None


@given(st.binary(max_size=30), st.integers(1, 50), st.integers(1, 50), st.integers(0, 100))
def test_any_bytes_are_a_mask_or_a_problem(counts: bytes, height: int, width: int, area: int) -> None:
    problem = mask_problem(counts, height, width, area)
    if problem is None:
        assert rle.decode(counts, height, width).sum() == area


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_a_record_of_any_bytes_is_damage_not_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "shared"
    uri = str(folder / "out")
    if not folder.exists():
        folder.mkdir()
        made_output(uri, folder / "in", images=4)
    store = Store.open(uri)
    good = store.get(RECORD)
    try:
        store.put(RECORD, data)
        assert {finding.fault for finding in verify(store).findings} == {Fault.RECORD}
    finally:
        store.put(RECORD, good)


fields = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["shard", "files", "counts", "classes", "instances", "bytes", "work"]), fields)
def test_a_record_with_any_field_is_told_or_right(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fields"
    if not folder.exists():
        folder.mkdir()
        made_output(str(folder / "out"), folder / "in", images=4)
    store = Store.open(str(folder / "out"))
    good = store.get(RECORD)
    try:
        edit_json(store, RECORD, **{name: value})
        report = verify(store)
        # How much input was read cannot be told from the rows.
        right = value == json.loads(good)[name] or (name == "bytes" and type(value) is int)
        assert report.outcome is (Outcome.GOOD if right else Outcome.DAMAGED)
    finally:
        store.put(RECORD, good)
