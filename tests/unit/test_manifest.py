"""Frozen plans: every input in exactly one shard, in an order that stays, whatever a manifest holds."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shardfiles
from pipeline.distinct import CONFLICT, DUPLICATE, NEW, Distinct, hashes
from pipeline.inputs import Inputs
from pipeline.manifest import InputError, InputSource, Plan, PlanError, freeze, load_plans, read_shard, scan
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.storage import Store


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "out"))


def write_csv(path: Path, *lines: str) -> InputSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return InputSource(str(path), manifest=True)


def write_parquet(path: Path, columns: dict[str, Any]) -> InputSource:
    pq.write_table(pa.table(columns), path)
    return InputSource(str(path), manifest=True)


def rows(output: Store, plan: Plan) -> list[ImageRef]:
    return [ref for number in range(plan.shards) for ref in read_shard(output, plan, number)]


def planned(output: Store, sources: Sequence[InputSource], shard_size: int = 1000) -> list[ImageRef]:
    return rows(output, freeze(sources, output, shard_size, 0))


# The plan


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), shard_size=st.integers(1, 25), per_file=st.integers(1, 4))
def test_every_image_is_in_exactly_one_shard(count: int, shard_size: int, per_file: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shardfiles, "FILE_SHARDS", per_file)
        source = write_csv(Path(folder, "list.csv"), "uri", *(f"{n}.jpg" for n in range(count)))
        output = Store.open(f"{folder}/out")
        plan = freeze([source], output, shard_size, 3)
        shards = [read_shard(output, plan, number) for number in range(plan.shards)]
        assert [ref.image_id for shard in shards for ref in shard] == [f"{n}.jpg" for n in range(count)]
        assert {len(shard) for shard in shards[:-1]} <= {shard_size}
        assert plan.shard_ids() == [f"0003-{number:06d}" for number in range(len(shards))]
        assert all(file.row_groups <= per_file for file in plan.files)
        with pytest.raises(IndexError):
            read_shard(output, plan, plan.shards)


def test_a_plan_is_read_back_as_it_was_made(output: Store, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "list.csv", "uri,crop,bytes", "a.jpg,maize,7", "b.jpg,,", "a.jpg,maize,7")
    plan = freeze([InputSource(source.uri, manifest=True, columns=("crop",))], output, 1, 0)
    assert load_plans(output) == [plan]
    assert plan.extra == pa.schema([("crop", pa.string())])
    assert (plan.images, plan.bytes, plan.skipped) == (2, 7, {"duplicate": 1})
    for file in plan.files:
        data = output.get(file.path)
        assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert [(ref.bytes, ref.extra) for ref in rows(output, plan)] == [
        (7, {"crop": "maize"}),
        (None, {"crop": None}),
    ]


def test_a_second_driver_adopts_the_first_ones_plan(output: Store, tmp_path: Path) -> None:
    first = freeze([write_csv(tmp_path / "1.csv", "uri", "a.jpg")], output, 5, 0)
    again = freeze([write_csv(tmp_path / "2.csv", "uri", "b.jpg", "c.jpg")], output, 1, 0)
    assert again == first


def test_of_drivers_at_the_same_time_one_plan_rules_and_the_others_leave_nothing(
    output: Store, tmp_path: Path
) -> None:
    sources = [write_csv(tmp_path / f"{n}.csv", "uri", *(f"{n}-{m}" for m in range(n + 1))) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        plans = list(threads.map(lambda source: freeze([source], output, 2, 0), sources))
    assert all(plan == plans[0] for plan in plans)
    kept = [info.key for info in output.list()]
    assert kept == [*(file.path for file in plans[0].files), "plans/0000.json"]


def test_a_plan_that_fails_leaves_nothing(
    output: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shardfiles, "FILE_SHARDS", 1)
    text = ["uri", *(f"{n}.jpg" for n in range(600_000)), "one,two"]
    with pytest.raises(InputError, match=r"list\.csv cannot be read"):
        freeze([write_csv(tmp_path / "list.csv", *text)], output, 50_000, 0)
    assert list(output.list()) == []


def test_generations_are_read_in_order_and_none_may_be_gone(output: Store, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "list.csv", "uri", "a.jpg")
    plans = [freeze([source], output, 1, generation) for generation in range(3)]
    for name in ("x.json", ".DS_Store", "old/0003.json"):
        output.put(f"plans/{name}", b"somebody's own file")
    assert load_plans(output) == plans
    output.delete(["plans/0001.json"])
    with pytest.raises(PlanError, match=r"plans/0001\.json is gone"):
        load_plans(output)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"images": 3},
        {"shards": 5},
        {"unknown": 1},
        {"generation": 1},
        {"files": [{"path": "x"}]},
        {"shard_size": "1"},
    ],
)
def test_a_record_that_is_not_a_plan_is_refused(
    output: Store, tmp_path: Path, change: dict[str, Any]
) -> None:
    freeze([write_csv(tmp_path / "list.csv", "uri", "a.jpg")], output, 1, 0)
    record = json.loads(output.get("plans/0000.json"))
    output.put("plans/0000.json", json.dumps(record | change).encode())
    with pytest.raises(PlanError, match=r"plans/0000\.json"):
        load_plans(output)


def test_a_manifest_that_was_changed_is_refused(output: Store, tmp_path: Path) -> None:
    plan = freeze([write_csv(tmp_path / "list.csv", "uri", "aaaaaaaa.jpg")], output, 1, 0)
    path, data = plan.files[0].path, output.get(plan.files[0].path)
    at = data.index(b"aaaaaaaa")
    for changed in (data[:at] + b"b" + data[at + 1 :], data[:at], b""):
        output.put(path, changed)
        with pytest.raises(PlanError, match="not the manifest that was planned"):
            read_shard(Store.open(output.uri), plan, 0)
    output.delete([path])
    with pytest.raises(PlanError, match="not the manifest that was planned"):
        read_shard(output, plan, 0)


def test_a_scan_counts_what_a_plan_would_hold_and_writes_nothing(output: Store, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "list.csv", "uri,bytes", "a.jpg,1", "a.jpg,1", "b.txt,2")
    found = scan([InputSource(source.uri, manifest=True, include=("*.jpg",))], output)
    assert (found.images, found.bytes, found.skipped) == (1, 1, {"duplicate": 1, "not_included": 1})
    assert list(output.list()) == []


# Users' manifests


def test_uris_of_a_manifest_are_resolved_against_its_folder(output: Store, tmp_path: Path) -> None:
    given_uris = {
        "a.jpg": (f"{tmp_path}/lists/a.jpg", "a.jpg"),
        "./b #1%20.jpg": (f"{tmp_path}/lists/b #1%20.jpg", "b #1%20.jpg"),
        "../c.jpg": (f"{tmp_path}/c.jpg", f"{tmp_path}/c.jpg"),
        "x/.hidden": (f"{tmp_path}/lists/x/.hidden", "x/.hidden"),
        "/data/d.jpg": ("/data/d.jpg", "/data/d.jpg"),
        "file:///data/e.jpg": ("/data/e.jpg", "/data/e.jpg"),
        f"{tmp_path}/lists/f.jpg": (f"{tmp_path}/lists/f.jpg", "f.jpg"),
        "s3://bucket/g h.jpg": ("s3://bucket/g h.jpg", "s3://bucket/g h.jpg"),
        "s3a://bucket/.i": ("s3://bucket/.i", "s3://bucket/.i"),
    }
    refs = planned(output, [write_csv(tmp_path / "lists" / "list.csv", "uri", *given_uris)])
    assert [(ref.uri, ref.image_id, ref.problem) for ref in refs] == [(*e, None) for e in given_uris.values()]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("a//b.jpg", "holds '//'"),
        ("s3://bucket//b.jpg", "begins or ends with '/'"),
        ("s3://bucket/a/../b.jpg", "'.' or '..'"),
        ("s3://bucket/", "empty"),
        ("s3://bucket", "empty"),
        ("s3://", "names no bucket"),
        ("folder/", "begins or ends with '/'"),
        ("https://host/x.jpg", "https:// is not read here"),
        ("../" * 40 + "x.jpg", "leads out of /"),
        ("tab\there.jpg", "control character"),
    ],
)
def test_rows_that_cannot_be_asked_for_stay_with_the_reason(
    output: Store, tmp_path: Path, uri: str, reason: str
) -> None:
    refs = planned(output, [write_csv(tmp_path / "list.csv", "uri", uri, "good.jpg")])
    assert reason in str(refs[0].problem)
    assert (refs[1].image_id, refs[1].problem) == ("good.jpg", None)


def test_nulls_duplicates_and_clashing_ids_are_all_accounted_for(output: Store, tmp_path: Path) -> None:
    source = write_parquet(
        tmp_path / "list.parquet",
        {
            "path": ["a", None, "a", "b", "c", "a", "", "d"],
            "key": ["1", "2", "1", "1", None, "3", "4", "1~4"],
        },
    )
    plan = freeze([InputSource(source.uri, manifest=True, uri_column="path", id_column="key")], output, 3, 0)
    refs = rows(output, plan)
    assert [(ref.image_id, Path(ref.uri).name, ref.problem is None) for ref in refs] == [
        ("1", "a", True),
        ("2", "", False),
        ("1~4~", "b", False),
        ("row-5", "c", False),
        ("3", "a", True),
        ("4", "", False),
        ("1~4", "d", True),
    ]
    assert plan.skipped == {"duplicate": 1}
    assert "'path' is null" in str(refs[1].problem)
    assert "'1' belongs to another image" in str(refs[2].problem)


def test_rows_without_a_uri_are_numbered(output: Store, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "list.parquet", {"uri": pa.array([None, "a", None], pa.string())})
    refs = planned(output, [source])
    assert [(ref.image_id, ref.uri) for ref in refs] == [("row-1", ""), ("a", f"{tmp_path}/a"), ("row-3", "")]


def test_row_numbers_are_the_files_own_even_when_rows_are_left_out(output: Store, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "list.csv", "uri,id", "a.txt,x", "a.jpg,x", "b.jpg,x")
    refs = planned(output, [InputSource(source.uri, manifest=True, id_column="id", include=("*.jpg",))])
    assert [ref.image_id for ref in refs] == ["x", "x~3"]


def test_columns_pass_through_with_their_types(output: Store, tmp_path: Path) -> None:
    source = write_parquet(
        tmp_path / "list.parquet",
        {
            "uri": ["a", "b"],
            "flight": pa.array([7, None], pa.int16()),
            "crop": pa.array(["maize", "oats"]).dictionary_encode(),
            "at": pa.array([[1.0, 2.0], None]),
            "left": ["out", "out"],
        },
    )
    plain = write_csv(tmp_path / "list.csv", "uri,crop", "c,rye")
    plan = freeze(
        [
            InputSource(source.uri, manifest=True, columns=("flight", "crop", "at")),
            InputSource(plain.uri, manifest=True, columns=("crop",)),
        ],
        output,
        10,
        0,
    )
    kinds = [("flight", pa.int16()), ("crop", pa.string()), ("at", pa.list_(pa.float64()))]
    assert plan.extra == pa.schema(kinds)
    assert [ref.extra for ref in rows(output, plan)] == [
        {"flight": 7, "crop": "maize", "at": [1.0, 2.0]},
        {"flight": None, "crop": "oats", "at": None},
        {"flight": None, "crop": "rye", "at": None},
    ]


def test_sizes_and_etags_are_taken_where_they_are_such(output: Store, tmp_path: Path) -> None:
    source = write_parquet(
        tmp_path / "list.parquet",
        {"uri": ["s3://b/x", "y"], "bytes": [5, None], "etag": ['"quoted"', "of-a-file"]},
    )
    pictures = write_parquet(
        tmp_path / "pictures.parquet", {"uri": ["z"], "bytes": [b"\x89PNG"], "etag": [1]}
    )
    refs = planned(output, [source, pictures])
    assert [(ref.bytes, ref.etag) for ref in refs] == [(5, "quoted"), (None, None), (None, None)]


def test_a_csv_file_may_be_of_any_make(output: Store, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes('\ufeffname,uri\r\n"two\nlines","a, b.jpg"\r\n007,"c ""d"".jpg"\r\nNA,null\r\n'.encode())
    refs = planned(output, [InputSource(str(path), manifest=True, columns=("name",))])
    assert [ref.image_id for ref in refs] == ["a, b.jpg", 'c "d".jpg', "null"]
    assert [ref.extra["name"] for ref in refs] == ["two\nlines", "007", "NA"]


@pytest.mark.parametrize(
    ("content", "source", "message"),
    [
        (b"path\na\n", {}, r"has no column 'uri'; it has path"),
        (b"uri\na\n", {"columns": ("crop",)}, r"has no column 'crop'"),
        (b"uri,crop,crop\na,b,c\n", {"columns": ("crop",)}, r"2 columns named 'crop'"),
        (b"uri,status\na,b\n", {"columns": ("status",)}, r"status of .* have names of the images table"),
        (b"uri,bytes\na,many\n", {}, r"column 'bytes' .* whole numbers.*many"),
        (b"", {}, r"is empty"),
        (b"uri\n", {}, r"no images"),
        (b"uri\na\xff\n", {}, r"cannot be read.*UTF8"),
        (b"uri,x\na\n", {}, r"cannot be read: .*columns"),
        (b"PAR1 and no more", {}, r"cannot be read"),
        (None, {}, r"does not exist"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(
    output: Store, tmp_path: Path, content: bytes | None, source: dict[str, Any], message: str
) -> None:
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        freeze([InputSource(str(path), manifest=True, **source)], output, 1, 0)
    assert "list.csv" in str(caught.value)
    assert list(output.list()) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=12))
def test_whatever_a_manifest_holds_every_row_is_accounted_for(uris: list[str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = write_parquet(Path(folder, "list.parquet"), {"uri": pa.array(uris, pa.string())})
        output = Store.open(f"{folder}/out")
        plan = freeze([source], output, 5, 0)
        refs = rows(output, plan)
        assert len(refs) + sum(plan.skipped.values()) == len(uris)
        assert len({ref.image_id for ref in refs}) == len(refs)
        inputs = Inputs([source])
        for ref in refs:
            with pytest.raises(InputRejected):
                inputs.fetch(ref, 0)


# Several inputs


def test_inputs_keep_their_order_and_their_place(output: Store, tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"1")
    south, north = (InputSource(str(tmp_path / name), name=name) for name in ("south", "north"))
    refs = planned(output, [south, north, write_csv(tmp_path / "list.csv", "uri", "x.jpg")])
    assert [(ref.image_id, ref.source) for ref in refs] == [
        ("south/1.jpg", 0),
        ("north/1.jpg", 1),
        ("x.jpg", 2),
    ]


def test_inputs_whose_ids_collide_need_names(output: Store, tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"1")
    sources = [InputSource(str(tmp_path / name)) for name in ("north", "south")]
    with pytest.raises(InputError, match=r"'1.jpg' is in .*north and in .*south; give the inputs a `name`"):
        freeze(sources, output, 1, 0)
    assert list(output.list()) == []


def test_the_same_image_of_two_manifests_is_taken_once(output: Store, tmp_path: Path) -> None:
    sources = [write_csv(tmp_path / f"{n}.csv", "uri", "a.jpg", f"{n}.jpg") for n in range(2)]
    plan = freeze(sources, output, 10, 0)
    assert [ref.image_id for ref in rows(output, plan)] == ["a.jpg", "0.jpg", "1.jpg"]
    assert plan.skipped == {"duplicate": 1}


@pytest.mark.parametrize("names", [("a", "a"), ("",), ("a/b",)])
def test_names_tell_inputs_apart(output: Store, tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="name"):
        freeze([InputSource(str(tmp_path), name=name) for name in names], output, 1, 0)


def test_columns_of_one_name_need_one_type(output: Store, tmp_path: Path) -> None:
    one = write_parquet(tmp_path / "1.parquet", {"uri": ["a"], "x": [1]})
    two = write_parquet(tmp_path / "2.parquet", {"uri": ["b"], "x": ["1"]})
    sources = [InputSource(source.uri, manifest=True, columns=("x",)) for source in (one, two)]
    with pytest.raises(InputError, match=r"'x' is string in .*2.parquet and int64"):
        freeze(sources, output, 1, 0)


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=8), max_size=12))
def test_distinct_judges_as_a_dictionary_would(batches: list[list[tuple[int, int]]]) -> None:
    distinct, known = Distinct(), dict[int, int]()
    for batch in batches:
        expected = []
        for name, meaning in batch:
            first = known.setdefault(name, meaning) if name in known else None
            expected.append(NEW if first is None else DUPLICATE if first == meaning else CONFLICT)
            known.setdefault(name, meaning)
        names, meanings = (np.array([pair[i] for pair in batch], np.int64) for i in range(2))
        assert distinct.add(names, meanings).tolist() == expected
        assert (distinct.look_up(names, meanings) != NEW).all()


def test_hashes_tell_strings_apart() -> None:
    texts = [f"s3://bucket/{n}" for n in range(10_000)]
    assert len(set(hashes(texts).tolist())) == len(texts)


# Fetching


def fetched(ref: ImageRef, limit: int = 100) -> Status:
    with pytest.raises(InputRejected) as caught:
        Inputs([InputSource("/")]).fetch(ref, limit)
    assert caught.value.reason
    return caught.value.status


def test_an_input_is_fetched_with_its_etag(tmp_path: Path) -> None:
    path = tmp_path / "a #1%20 é.jpg"
    path.write_bytes(b"12345")
    store = Store.open(str(tmp_path))
    ref = ImageRef("a", str(path), 0, etag=store.head(path.name).etag, bytes=5)
    assert Inputs([InputSource(str(tmp_path))]).fetch(ref, 5) == (b"12345", ref.etag)


def test_what_cannot_be_fetched_ends_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    assert fetched(ImageRef("a", str(path), 0), limit=4) is Status.TOO_LARGE
    assert fetched(ImageRef("a", str(path), 0, bytes=101)) is Status.TOO_LARGE
    assert fetched(ImageRef("a", str(path), 0, etag="of before")) is Status.MISSING
    assert fetched(ImageRef("a", f"{path}x", 0)) is Status.MISSING
    assert fetched(ImageRef("a", f"{path}/x", 0)) is Status.MISSING
    assert fetched(ImageRef("a", str(tmp_path), 0)) is Status.MISSING
    assert fetched(ImageRef("a", "x", 0, problem="no such name")) is Status.UNSUPPORTED


def test_an_input_that_vanishes_or_changes_after_the_plan_is_missing(output: Store, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("gone", "grown", "same"):
        (folder / name).write_bytes(b"1")
    refs = planned(output, [InputSource(str(folder))])
    (folder / "gone").unlink()
    (folder / "grown").write_bytes(b"12")
    os.utime(folder / "grown", ns=(1, 1))
    assert [fetched(refs[0]), fetched(refs[1])] == [Status.MISSING, Status.MISSING]
    assert Inputs([InputSource(str(folder))]).fetch(refs[2], 1)[0] == b"1"
