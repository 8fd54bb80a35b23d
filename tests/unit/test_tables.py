"""Tables are exact at any moment: what is committed is read, all of it, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from rasterio.features import rasterize

from condinst import rle
from condinst.instances import Instances, RleMasks
from pipeline import tables
from pipeline.commit import Commit, TableFile, Work, attempt_key, commit_key, public_key
from pipeline.ledger import Ledger, LedgerError
from pipeline.manifest import InputSource, Plan, freeze
from pipeline.objects import Check
from pipeline.records import ImageRef, Status
from pipeline.rows import Outcome, images_table, instances_table, to_parquet, visible
from pipeline.schemas import (
    IMAGES_SCHEMA,
    INSTANCES_SCHEMA,
    TABLES,
    VOLATILE_COLUMNS,
    collisions,
    file_metadata,
    images_schema,
)
from pipeline.storage import NotFound, Store

NAMES = ("crop", "weed")


def found(rng: np.random.Generator, count: int, height: int = 40, width: int = 60) -> Instances:
    """Instances with random masks, some of them without a pixel."""
    crops = [rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))) < 0.6 for _ in range(count)]
    masks = RleMasks(
        x=np.array([rng.integers(0, width - c.shape[1] + 1) for c in crops], dtype=np.int32),
        y=np.array([rng.integers(0, height - c.shape[0] + 1) for c in crops], dtype=np.int32),
        height=np.array([c.shape[0] for c in crops], dtype=np.int32),
        width=np.array([c.shape[1] for c in crops], dtype=np.int32),
        area=np.array([c.sum() for c in crops], dtype=np.int64),
        counts=[rle.encode(c) for c in crops],
    )
    return Instances(
        boxes=rng.random((count, 4), dtype=np.float32),
        scores=np.sort(rng.random(count, dtype=np.float32))[::-1].copy(),
        classes=rng.integers(0, len(NAMES), count),
        masks=masks,
    )


def outcomes_of(shard: int, images: int = 3) -> list[Outcome]:
    rng = np.random.default_rng(shard)
    good = [
        Outcome(
            ImageRef(f"{shard}/{n}.jpg", f"s3://b/{shard}/{n}.jpg", 0),
            Status.OK,
            bytes=7,
            size=(40, 60),
            found=visible(found(rng, 5)),
        )
        for n in range(images - 1)
    ]
    bad = Outcome(ImageRef(f"{shard}/bad", f"s3://b/{shard}/bad", 0), Status.CORRUPT, error="cut off")
    return [*good, bad]


@pytest.fixture
def output(tmp_path: Path) -> Store:
    """An output whose plan has three shards, none of them committed."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(9):
        (source / f"{number}.jpg").write_bytes(b"x")
    store = Store.open(str(tmp_path / "out"))
    freeze((InputSource(str(source)),), store, 3, 0)
    Ledger(store).claim({"fingerprint": "f", "model_digest": "m", "settings": {}})
    return store


def write(store: Store, number: int, attempt: str = "a1", revision: int = 0) -> Commit:
    """Files and record of an attempt, not published."""
    shard, outcomes = f"0000-{number:06d}", outcomes_of(number)
    said = file_metadata(shard, attempt, "f", "m")
    made = {"instances": instances_table(outcomes, NAMES), "images": images_table(outcomes, attempt)}
    files = {name: to_parquet(table, said) for name, table in made.items()}
    Ledger(store).write(shard, attempt, files)
    return Commit(
        shard=shard,
        attempt=attempt,
        fingerprint="f",
        files={name: TableFile.of(files[name], made[name].num_rows) for name in TABLES},
        counts={"ok": 2, "corrupt": 1},
        classes={},
        instances=made["instances"].num_rows,
        bytes=14,
        committed=0.0,
        work=Work("w"),
        revision=revision,
    )


def commit(store: Store, number: int, attempt: str = "a1") -> Commit:
    return Ledger(store).commit(write(store, number, attempt))


def expected(*numbers: int) -> list[tuple[str, int]]:
    return [
        (outcome.ref.image_id, index)
        for number in numbers
        for outcome in outcomes_of(number)
        for index in range(outcome.instances)
    ]


def keys(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["image_id"].to_pylist(), table["instance_id"].to_pylist(), strict=True))


def test_rows_come_in_plan_order_whatever_the_order_of_commits(output: Store) -> None:
    for number in (2, 0, 1):
        commit(output, number)
    run = tables.open(output.uri)
    assert run.complete
    assert run.shards == ["0000-000000", "0000-000001", "0000-000002"]
    assert keys(run.instances()) == expected(0, 1, 2)
    assert run.images()["image_id"].to_pylist() == [
        o.ref.image_id for number in range(3) for o in outcomes_of(number)
    ]
    assert run.instances().schema.equals(INSTANCES_SCHEMA)
    assert run.images().schema.equals(IMAGES_SCHEMA)
    assert run.instances().schema.metadata[b"condinst.fingerprint"] == b"f"


def test_nothing_committed_is_two_empty_tables(output: Store) -> None:
    run = tables.open(output.uri)
    assert (run.images().num_rows, run.instances().num_rows, run.complete) == (0, 0, False)
    assert run.instances(columns=["score"], filter=pc.field("area") > 3).schema.names == ["score"]
    assert list(run.batches("images")) == []


def test_no_job_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        tables.open(str(tmp_path / "nothing"))


def test_files_that_no_commit_names_are_not_read(output: Store) -> None:
    commit(output, 0)
    output.put("instances/0000-000001.parquet", output.get("instances/0000-000000.parquet"))
    output.put("images/stray.parquet", b"anything")
    output.put("commits/readme.txt", b"anything")
    assert keys(tables.open(output.uri).instances()) == expected(0)


def test_a_commit_not_yet_published_is_read_from_its_attempt(output: Store) -> None:
    record = write(output, 1)
    output.create(commit_key(record.shard), record.to_json().encode())
    assert keys(tables.open(output.uri).instances()) == expected(1)
    # Half-way through publication, and with another attempt's file of the same size in the public place.
    output.copy(attempt_key(record.shard, "a1", "instances"), public_key("instances", record.shard))
    write(output, 1, "a2")
    output.copy(attempt_key(record.shard, "a2", "images"), public_key("images", record.shard))
    run = tables.open(output.uri)
    assert keys(run.instances()) == expected(1)
    assert run.images()["attempt"].to_pylist() == ["a1"] * 3


def test_the_highest_revision_is_read(output: Store) -> None:
    commit(output, 0)
    retry = write(output, 0, "a9", revision=1)
    output.create(commit_key(retry.shard, 1), retry.to_json().encode())
    assert set(tables.open(output.uri).images()["attempt"].to_pylist()) == {"a9"}


def test_a_run_publishing_while_it_is_read_is_read_whole(
    output: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt's files may vanish between any two requests of a reader: then they are public."""
    record = write(output, 0)
    output.create(commit_key(record.shard), record.to_json().encode())
    run = tables.open(output.uri)
    head = Store.head

    def publish_after(self: Store, key: str) -> Any:
        info = head(self, key)
        if key.startswith("_attempts/"):
            Ledger(output).publish(record)
        return info

    monkeypatch.setattr(Store, "head", publish_after)
    assert keys(run.instances()) == expected(0)


@pytest.mark.parametrize("damage", ["missing", "other", "garbage"])
def test_a_changed_output_is_reported_not_read(output: Store, damage: str) -> None:
    record = commit(output, 0)
    key = public_key("images", record.shard)
    if damage == "missing":
        output.delete([key])
    elif damage == "other":
        commit(output, 1, "a2")
        output.copy("images/0000-000001.parquet", key)
    else:
        output.put(key, b"x" * record.files["images"].size)
    with pytest.raises(LedgerError, match=r"images/0000-000000\.parquet"):
        tables.open(output.uri).images()


def test_columns_and_filter_select_what_reading_all_would(output: Store) -> None:
    for number in range(3):
        commit(output, number)
    run = tables.open(output.uri)
    whole = run.instances()
    where = (pc.field("score") > 0.5) & (pc.field("category") == "weed")
    part = run.instances(columns=["area", "image_id"], filter=where)
    rows = [r for r in whole.to_pylist() if r["score"] > 0.5 and r["category"] == "weed"]
    assert part.to_pylist() == [{"area": r["area"], "image_id": r["image_id"]} for r in rows]
    assert len(rows) > 3
    batches = list(run.batches("instances", columns=["area", "image_id"], filter=where))
    assert pa.Table.from_batches(batches).to_pylist() == part.to_pylist()


def test_a_column_costs_its_own_bytes_only(output: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    heavy = Outcome(ImageRef("big", "u", 0), Status.OK, size=(40, 60), found=visible(found(rng, 20_000)))
    table = instances_table([heavy], NAMES)
    data = to_parquet(table, file_metadata("0000-000000", "a1", "f", "m"))
    record = write(output, 0)
    files = {"instances": data, "images": output.get(attempt_key(record.shard, "a1", "images"))}
    Ledger(output).write(record.shard, "a1", files)
    described = {**record.files, "instances": TableFile.of(data, table.num_rows)}
    Ledger(output).commit(Commit(**{**vars(record), "files": described}))
    read = 0
    get_range = Store.get_range

    def counted(self: Store, key: str, start: int, length: int, check: Check | None = None) -> bytes:
        nonlocal read
        read += length
        return get_range(self, key, start, length, check)

    monkeypatch.setattr(Store, "get_range", counted)
    assert tables.open(output.uri).instances(columns=["area"]).num_rows == table.num_rows
    assert read < len(data) / 2


def test_generations_with_other_columns_are_read_as_one_table(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "out"))
    Ledger(store).claim({"fingerprint": "f", "settings": {}})
    for generation, name in enumerate(("field", "weight")):
        listed = tmp_path / f"{name}.csv"
        listed.write_text(f"uri,{name}\n{name}.jpg,12\n")
        plan = freeze((InputSource(str(listed), manifest=True, columns=(name,)),), store, 3, generation)
        ref = ImageRef(f"{name}.jpg", "u", 0, extra={name: "12"})
        shard = plan.shard_ids()[0]
        said = file_metadata(shard, "a", "f", "m")
        made = {
            "instances": INSTANCES_SCHEMA.empty_table(),
            "images": images_table([Outcome(ref, Status.EMPTY, size=(1, 1))], "a", plan.extra),
        }
        files = {key: to_parquet(table, said) for key, table in made.items()}
        Ledger(store).write(shard, "a", files)
        record = Commit(
            shard=shard,
            attempt="a",
            fingerprint="f",
            files={key: TableFile.of(files[key], made[key].num_rows) for key in TABLES},
            counts={"empty": 1},
            classes={},
            instances=0,
            bytes=0,
            committed=0.0,
            work=Work("w"),
        )
        Ledger(store).commit(record)
    run = tables.open(store.uri)
    table = run.images(columns=["image_id", "field", "weight"], filter=pc.field("status") == "empty")
    assert table.to_pylist() == [
        {"image_id": "field.jpg", "field": "12", "weight": None},
        {"image_id": "weight.jpg", "field": None, "weight": "12"},
    ]
    assert run.images(filter=pc.field("weight") == "12")["image_id"].to_pylist() == ["weight.jpg"]


def test_canonical_forgets_what_may_differ_and_nothing_else(output: Store, tmp_path: Path) -> None:
    for number in range(3):
        commit(output, number)
    run = tables.open(output.uri)
    images = tables.canonical(run.images())
    assert set(IMAGES_SCHEMA.names) - set(images.column_names) == set(VOLATILE_COLUMNS)
    at = IMAGES_SCHEMA.get_field_index("attempt")
    again = tables.canonical(run.images().set_column(at, "attempt", pa.array(["other"] * 9)))
    assert images.equals(again)
    rows = run.instances()
    changed = rows.set_column(4, "score", pc.add(rows["score"], pa.scalar(1e-6, pa.float32())))
    assert tables.canonical(rows).equals(tables.canonical(run.instances()))
    assert not tables.canonical(rows).equals(tables.canonical(changed))


def test_equal_rows_make_equal_files() -> None:
    said = file_metadata("s", "a", "f", "m")
    first, second = (to_parquet(instances_table(outcomes_of(1), NAMES), said) for _ in range(2))
    assert first == second
    footer = pq.read_metadata(io.BytesIO(first))
    assert footer.metadata[b"condinst.attempt"] == b"a"
    assert footer.metadata[b"condinst.schema"] == b"1"
    assert footer.row_group(0).column(0).compression == "ZSTD"


def test_masks_without_pixels_leave_no_row_and_no_gap() -> None:
    instances = found(np.random.default_rng(3), 60)
    instances.masks.area[::3] = 0
    outcome = Outcome(ImageRef("i", "u", 0), Status.OK, size=(40, 60), found=visible(instances))
    rows = instances_table([outcome], NAMES).to_pylist()
    assert [row["instance_id"] for row in rows] == list(range(len(rows)))
    assert len(rows) == (instances.masks.area > 0).sum() < 60
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_passed_through_columns_may_not_take_our_names() -> None:
    assert collisions(["field", "Status", "uri"]) == ["Status", "uri"]
    with pytest.raises(ValueError, match="rename"):
        images_schema(pa.schema([pa.field("status", pa.string())]))


MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS, st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.integers(0, 9))
def test_a_row_gives_its_mask_back_in_every_form(
    pixels: np.ndarray, x: int, y: int, right: int, below: int
) -> None:
    height, width = pixels.shape
    mask = {"x": x, "y": y, "height": height, "width": width, "counts": rle.encode(pixels)}
    row = {"mask": mask}
    full_height, full_width = y + height + below, x + width + right
    frame = np.zeros((full_height, full_width), dtype=bool)
    frame[y : y + height, x : x + width] = pixels
    assert (tables.crop(row) == pixels).all()
    whole = tables.full_frame_rle(row, full_height, full_width)
    assert whole["counts"] == coco.encode(np.asfortranarray(frame, dtype=np.uint8))["counts"]
    shapes = [
        {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]}
        for rings in tables.polygons(row)
    ]
    drawn = rasterize(shapes, out_shape=frame.shape) if shapes else np.zeros_like(frame)
    assert (drawn.astype(bool) == frame).all()


def test_a_crop_outside_its_frame_is_refused() -> None:
    row = {"mask": {"x": 5, "y": 0, "height": 2, "width": 2, "counts": rle.encode(np.ones((2, 2), bool))}}
    with pytest.raises(ValueError, match="crop of 2x2"):
        tables.full_frame_rle(row, 10, 6)


def test_plan_is_at_hand(output: Store) -> None:
    plans: list[Plan] = tables.open(output.uri).plans
    assert [plan.images for plan in plans] == [9]
