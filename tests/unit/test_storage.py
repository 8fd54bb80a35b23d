"""A folder on disk as a store: whole objects, one creator, no way out."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from pipeline.keys import locate
from pipeline.storage import BadPath, Denied, NotFound, Store, StoreError, StoreOptions, addressable

NAMES = st.text(alphabet="ab.-/ %#+é日\n\\~", min_size=1, max_size=8)
KEYS = NAMES.filter(lambda key: addressable(key) is None)


def tree(keys: list[str]) -> list[str]:
    """The keys that can be files together: none is a folder of another."""
    return [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


@given(NAMES)
def test_addressable_says_yes_to_exactly_the_names_that_the_client_keeps_as_they_are(key: str) -> None:
    memory = MemoryStore()
    try:
        obstore.put(memory, key, b"")
        kept = [meta["path"] for chunk in obstore.list(memory) for meta in chunk] == [key]
    except ValueError:
        kept = False
    assert (addressable(key) is None) == kept


@settings(max_examples=50, deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=12, unique=True).map(tree))
def test_objects_come_back_under_their_names_in_byte_order(keys: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        for key in keys:
            store.put(key, key.encode())
        assert [info.key for info in store.list()] == sorted(keys, key=str.encode)
        assert all(store.get(key) == key.encode() for key in keys)
        for prefix in {key[:2] for key in keys}:
            expected = sorted((k for k in keys if k.startswith(prefix)), key=str.encode)
            assert [info.key for info in store.list(prefix)] == expected
        store.delete(keys)
        assert os.listdir(folder) == []


@given(
    data=st.binary(max_size=64), seeks=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), max_size=6)
)
def test_a_reader_reads_like_a_file(data: bytes, seeks: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        store.put("x", data)
        with store.reader("x") as reader:
            for start, length in seeks:
                reader.seek(start)
                assert reader.read(length) == data[start : start + length]


def test_ranges_end_where_the_object_ends(store: Store) -> None:
    store.put("x", b"0123456789")
    assert store.get_range("x", 2, 3) == b"234"
    assert store.get_range("x", 8, 10) == b"89"


def test_put_replaces_and_the_etag_tells(store: Store) -> None:
    store.put("a/x", b"one")
    before = store.head("a/x")
    store.put("a/x", b"three")
    data, after = store.get_with_info("a/x")
    assert data == b"three"
    assert after.size == 5
    assert after.etag != before.etag
    assert store.head("a/x") == after


def test_a_check_sees_the_object_before_it_is_read_and_may_refuse(store: Store) -> None:
    store.put("x", b"12345")

    def refuse(info: object) -> None:
        raise KeyError(info)

    with pytest.raises(KeyError, match="size=5"):
        store.get_with_info("x", refuse)


def test_of_many_creators_exactly_one_succeeds_and_its_bytes_stay(store: Store) -> None:
    with ThreadPoolExecutor(16) as threads:
        for trial in range(10):
            key = f"commits/{trial}.json"
            won = list(threads.map(lambda n, key=key: store.create(key, b"%d" % n * 1000), range(16)))
            assert sum(won) == 1
            assert store.get(key) == b"%d" % won.index(True) * 1000
    assert len(list(store.list())) == 10


def test_copy_replaces_and_says_when_the_source_is_gone(store: Store) -> None:
    store.put("a", b"new")
    store.put("public/a", b"old")
    store.copy("a", "public/a")
    assert store.get("public/a") == b"new"
    with pytest.raises(NotFound, match="gone"):
        store.copy("gone", "public/a")
    assert store.get("public/a") == b"new"


def test_what_is_not_there_is_not_found_and_deletes_in_silence(store: Store) -> None:
    assert list(store.list()) == []
    for call in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound, match=r"root/a/b does not exist"):
            call("a/b")
    store.delete(["a/b"])


def test_a_deleted_object_takes_its_empty_folders_along_and_no_others(store: Store) -> None:
    store.put("a/b/c", b"")
    store.put("a/d", b"")
    store.delete(["a/b/c"])
    assert os.listdir(f"{store.uri}/a") == ["d"]


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/out", "a//b", "", "a/./b", "a/", "new\nline"])
def test_keys_that_lead_out_or_mean_several_things_are_refused(store: Store, key: str) -> None:
    for call in (store.get, store.head, lambda key: store.put(key, b""), lambda key: store.create(key, b"")):
        with pytest.raises(StoreError):
            call(key)
    with pytest.raises(StoreError, match="leads out"):
        list(store.list("a/../../"))
    assert list(Path(store.uri).parent.iterdir()) == []


def test_nothing_is_written_or_deleted_through_a_link_that_leads_out(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    store.put("inside", b"")
    os.symlink(outside, f"{store.uri}/link")
    for call in (
        lambda: store.put("link/x", b""),
        lambda: store.create("link/deep/x", b""),
        lambda: store.copy("inside", "link/x"),
        lambda: store.delete(["link/kept"]),
    ):
        with pytest.raises(StoreError, match="symbolic link leads out"):
            call()
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_a_link_in_the_place_of_an_object_is_replaced_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    store.put("x", b"")
    os.remove(f"{store.uri}/x")
    os.symlink(tmp_path / "victim", f"{store.uri}/x")
    store.put("x", b"new")
    assert (tmp_path / "victim").read_bytes() == b"kept"
    assert store.get("x") == b"new"


def test_listing_follows_links_once_and_shows_what_is_missing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo").write_bytes(b"1")
    store.put("a/x", b"1")
    os.symlink(store.uri, f"{store.uri}/a/loop")
    os.symlink(tmp_path / "elsewhere", f"{store.uri}/linked")
    os.symlink("nowhere", f"{store.uri}/dangling")
    os.mkfifo(f"{store.uri}/pipe")
    assert [info.key for info in store.list()] == ["a/x", "dangling", "linked/photo"]
    with pytest.raises(NotFound):
        store.get("pipe")
    with pytest.raises(NotFound):
        store.get("dangling")


def test_a_file_half_written_is_no_object(store: Store) -> None:
    store.put("whole", b"")
    Path(store.uri, ".tmp-0123456789abcdef").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["whole"]


def test_names_that_are_not_unicode_are_listed_with_their_problem(store: Store) -> None:
    store.put("plain", b"")
    Path(os.fsdecode(store.uri.encode() + b"/caf\xe9.jpg")).write_bytes(b"")
    odd, plain = store.list()
    assert "UTF-8" in str(store.problem(odd.key))
    assert store.problem(plain.key) is None
    with pytest.raises(StoreError, match=r"caf\\xe9.jpg: the name is not UTF-8"):
        store.get(odd.key)


@pytest.mark.parametrize("write", [Store.put, Store.create, lambda store, key, _: store.probe()])
@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, write: Any, below: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("kept")
    with pytest.raises(BadPath, match=r"notes\.txt is a file; name a folder$"):
        write(Store.open(str(notes / below)), "x", b"")
    assert notes.read_text() == "kept"


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadPath, match=r"/x{300}/out cannot be created: File name too long; name another"):
        Store.open(f"{tmp_path}/{'x' * 300}/out").probe()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_in_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Denied, match=f"^{tmp_path}: permission denied"):
        Store.open(str(tmp_path / "out")).probe()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(store: Store) -> None:
    store.put("folder/x", b"")
    os.chmod(f"{store.uri}/folder", 0)
    try:
        with pytest.raises(Denied, match="folder"):
            list(store.list())
    finally:
        os.chmod(f"{store.uri}/folder", 0o700)


def test_a_full_disk_says_so_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("old", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"root/old: No space left on device"):
        store.put("old", b"new")
    monkeypatch.undo()
    assert store.get("old") == b"old"
    assert os.listdir(store.uri) == ["old"]


def test_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe()
    assert list(store.list()) == []


def test_a_store_travels_as_its_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("relative", StoreOptions(profile="p"))
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert copy.uri == f"{tmp_path}/relative"
    assert copy.options.profile == "p"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a b%20#c/", "s3://bucket/a b%20#c"),
        ("s3a://bucket/a", "s3://bucket/a"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("az://container/a", "az://container/a"),
        ("file:///data/a%20b", "/data/a%20b"),
        ("/data/../data/a//b/", "/data/a/b"),
        ("/", "/"),
    ],
)
def test_uris_are_taken_as_they_are_written(uri: str, expected: str) -> None:
    assert Store.open(uri).uri == expected
    assert Store.open(expected).uri == expected


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://../key", "http://host/x", "hdfs://host/x", "", "a\0b"]
)
def test_uris_that_name_no_place_are_refused(uri: str) -> None:
    with pytest.raises(StoreError):
        Store.open(uri)


def test_joined_uris_are_found_again() -> None:
    for uri in ("/", "/data", "s3://bucket", "s3://bucket/a"):
        store = Store.open(uri)
        place = locate(store.join("x#1/%y"), trim=False)
        assert Store.open(place.root).join(place.path) == store.join("x#1/%y")


def test_chunks_are_one_object_or_none(store: Store) -> None:
    store.put_chunks("a/b", iter([b"one ", b"", b"two"]))
    assert store.get("a/b") == b"one two"

    def broken() -> Iterator[bytes]:
        yield b"three"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put_chunks("a/b", broken())
    assert [info.key for info in store.list()] == ["a/b"]
    assert store.get("a/b") == b"one two"
    assert os.listdir(Path(store.uri) / "a") == ["b"]
