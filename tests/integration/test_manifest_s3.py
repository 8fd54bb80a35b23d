"""Plans over S3: the same files give the same shards as on disk, and a shard is read without the rest."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs import Inputs
from pipeline.manifest import InputError, InputSource, Plan, freeze, load_plans, read_shard, scan
from pipeline.objects import Check
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.storage import NotFound, Store, StoreOptions, Unavailable

NAMES = [
    "b.jpg",
    "b-c.jpg",
    "b/2.jpg",
    "b/10.jpg",
    "b0",
    "a b/é #1%20.jpg",
    "日/x.jpg",
    "B.jpg",
    "~",
    "z/y/x/w.jpg",
]


def fill(store: Store) -> None:
    for name in NAMES:
        store.put(name, name.encode())


def rows(output: Store, plan: Plan) -> list[ImageRef]:
    return [ref for number in range(plan.shards) for ref in read_shard(output, plan, number)]


def status(source: InputSource, ref: ImageRef, limit: int = 1000) -> Status:
    with pytest.raises(InputRejected) as caught:
        Inputs([source]).fetch(ref, limit)
    return caught.value.status


def test_the_same_files_give_the_same_shards_on_disk_and_on_s3(s3_bucket: str, tmp_path: Path) -> None:
    shards = []
    for root in (f"{s3_bucket}/in", str(tmp_path / "in")):
        fill(Store.open(root))
        output = Store.open(f"{root}-out")
        source = InputSource(root, exclude=("B*",))
        plan = freeze([source], output, 4, 0)
        assert load_plans(output) == [plan]
        assert {ref.uri for ref in rows(output, plan)} == {
            f"{root}/{name}" for name in NAMES if name != "B.jpg"
        }
        inputs = Inputs([source])
        for ref in rows(output, plan):
            assert inputs.fetch(ref, 1000) == (ref.image_id.encode(), ref.etag)
        shards.append(
            [[(r.image_id, r.bytes) for r in read_shard(output, plan, n)] for n in range(plan.shards)]
        )
    assert shards[0] == shards[1]
    assert [len(shard) for shard in shards[0]] == [4, 4, 1]


def test_odd_names_and_folder_markers_are_accounted_for(s3_bucket: str) -> None:
    client = boto3.client("s3")
    bodies = {
        "in/": b"",
        "in/a/": b"",
        "in/a//b.jpg": b"1",
        "in/./c.jpg": b"1",
        "in/full/": b"1",
        "in/ok.jpg": b"1",
    }
    for key, body in bodies.items():
        client.put_object(Bucket=s3_bucket[5:], Key=key, Body=body)
    source, output = InputSource(f"{s3_bucket}/in"), Store.open(f"{s3_bucket}/out")
    plan = freeze([source], output, 10, 0)
    refs = {ref.image_id: ref for ref in rows(output, plan)}
    assert set(refs) == {"a//b.jpg", "./c.jpg", "full/", "ok.jpg"}
    assert plan.skipped == {"folder_marker": 2}
    assert refs.pop("ok.jpg").problem is None
    assert {status(source, ref) for ref in refs.values()} == {Status.UNSUPPORTED}


def test_an_input_may_be_one_object_and_an_empty_prefix_is_an_error(s3_bucket: str) -> None:
    fill(Store.open(f"{s3_bucket}/in"))
    output = Store.open(f"{s3_bucket}/out")
    plan = freeze([InputSource(f"{s3_bucket}/in/b/2.jpg")], output, 10, 0)
    assert [(ref.image_id, ref.uri) for ref in rows(output, plan)] == [("2.jpg", f"{s3_bucket}/in/b/2.jpg")]
    with pytest.raises(InputError, match=f"nothing lies at {s3_bucket}/inn"):
        scan([InputSource(f"{s3_bucket}/inn")])
    with pytest.raises(NotFound, match="no such bucket"):
        scan([InputSource("s3://there-is-no-such-bucket")])


def test_what_changes_vanishes_or_is_too_large_after_the_plan(s3_bucket: str) -> None:
    store = Store.open(f"{s3_bucket}/in")
    for name in ("changed", "gone", "large", "same"):
        store.put(name, b"12345")
    source, output = InputSource(store.uri), Store.open(f"{s3_bucket}/out")
    refs = {ref.image_id: ref for ref in rows(output, freeze([source], output, 10, 0))}
    store.put("changed", b"54321")
    store.delete(["gone"])
    assert status(source, refs["changed"]) is Status.MISSING
    assert status(source, refs["gone"]) is Status.MISSING
    assert status(source, refs["large"], limit=4) is Status.TOO_LARGE
    unknown = ImageRef("large", f"{store.uri}/large", 0)
    assert status(source, unknown, limit=4) is Status.TOO_LARGE
    assert status(source, ImageRef("x", "s3://there-is-no-such-bucket/x", 0)) is Status.MISSING
    assert Inputs([source]).fetch(refs["same"], 5)[0] == b"12345"


def test_a_store_that_is_down_is_no_fault_of_the_image(s3_bucket: str) -> None:
    source = InputSource("s3://bucket", options=StoreOptions(endpoint="http://127.0.0.1:1"))
    with pytest.raises(Unavailable):
        Inputs([source]).fetch(ImageRef("a", "s3://bucket/a", 0), 10)


def test_a_users_manifest_on_s3_names_images_anywhere_but_on_disk(s3_bucket: str) -> None:
    lists = Store.open(f"{s3_bucket}/lists")
    uris = [
        "a.jpg",
        "../b.jpg",
        f"{s3_bucket}/lists/c.jpg",
        "s3://other/d.jpg",
        "/etc/e.jpg",
        "file:///etc/f.jpg",
    ]
    table = io.BytesIO()
    pq.write_table(pa.table({"uri": uris, "n": range(6)}), table)
    lists.put("list.parquet", table.getvalue())
    lists.put("list.csv", "\n".join(["uri,n", *(f"{uri},{n}" for n, uri in enumerate(uris))]).encode())
    plans = []
    for name in ("list.parquet", "list.csv"):
        output = Store.open(f"{s3_bucket}/{name}-out")
        refs = rows(
            output, freeze([InputSource(f"{lists.uri}/{name}", manifest=True, columns=("n",))], output, 2, 0)
        )
        plans.append([(ref.image_id, ref.uri, ref.problem, str(ref.extra["n"])) for ref in refs])
    assert plans[0] == plans[1]
    assert [row[:2] for row in plans[0][:4]] == [
        ("a.jpg", f"{s3_bucket}/lists/a.jpg"),
        (f"{s3_bucket}/b.jpg", f"{s3_bucket}/b.jpg"),
        ("c.jpg", f"{s3_bucket}/lists/c.jpg"),
        ("s3://other/d.jpg", "s3://other/d.jpg"),
    ]
    assert ["cannot name files on disk" in str(row[2]) for row in plans[0]] == [False] * 4 + [True] * 2


def test_a_shard_is_read_without_the_rest(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.parquet"
    uris = [f"s3://bucket/{n:06d}-{hash(str(n)):x}.jpg" for n in range(100_000)]
    pq.write_table(pa.table({"uri": uris}), path)
    output = Store.open(f"{s3_bucket}/out")
    plan = freeze([InputSource(str(path), manifest=True)], output, 1000, 0)
    read: list[int] = []
    whole = Store.get_range

    def counted(self: Store, key: str, start: int, length: int, check: Check | None = None) -> bytes:
        read.append(length)
        return whole(self, key, start, length, check)

    monkeypatch.setattr(Store, "get_range", counted)
    for number in (99, 0, 50):
        read.clear()
        assert [ref.uri for ref in read_shard(output, plan, number)] == uris[number * 1000 :][:1000]
        if number != 99:
            assert len(read) <= 2
            assert sum(read) < plan.files[0].size / 50


def test_of_drivers_at_the_same_time_one_plan_rules_and_the_others_leave_nothing(s3_bucket: str) -> None:
    store = Store.open(f"{s3_bucket}/in")
    fill(store)
    output = Store.open(f"{s3_bucket}/out")
    with ThreadPoolExecutor(6) as threads:
        plans = list(threads.map(lambda n: freeze([InputSource(store.uri)], output, n, 0), range(1, 7)))
    assert all(plan == plans[0] for plan in plans)
    assert [info.key for info in output.list()] == [
        *(file.path for file in plans[0].files),
        "plans/0000.json",
    ]
    assert len(rows(output, plans[0])) == len(NAMES)
