"""Folded records say what the records say, or nothing: whatever is folded, torn, stale or gone."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jobs.check import load_text
from jobs.scenes.dataset import write_dataset
from jobs.segment import run_job
from pipeline import folding, ledger, tables
from pipeline.commit import Commit, TableFile, Work, commit_key
from pipeline.findings import Fault
from pipeline.folding import LEDGER, Folded
from pipeline.ledger import Folding, Ledger, LedgerError
from pipeline.objects import ObjectInfo, StoreOptions
from pipeline.storage import Store
from pipeline.vacuum import Kind, find, remove
from pipeline.verify import Outcome, verify
from tests.counting import counting
from tests.made import made_output
from tests.tiny import tiny_weights

FEW = 4


@pytest.fixture(autouse=True)
def few() -> Iterator[None]:
    """Files of four records, so that small outputs have some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "FOLD", FEW)
        patch.setattr(ledger, "FOLD", FEW)
        yield


def record_of(number: int, revision: int = 0, ok: int = 2) -> Commit:
    files = {name: TableFile.of(b"data", 1) for name in ("instances", "images")}
    counts = {"ok": ok, "corrupt": number % 3}
    work = Work(worker="w", first=1.0, last=2.5, busy=0.1 * number, seconds={"model": 0.5})
    attempt = f"{number:013d}-ab"
    return Commit(f"0000-{number:06d}", attempt, "f", files, counts, {"tree": 3}, 3, 10, 1.5, work, revision)


def put(store: Store, record: Commit) -> None:
    store.put(commit_key(record.shard, record.revision), record.to_json().encode())


def files(store: Store) -> list[str]:
    return [info.key for info in store.list(LEDGER)]


def unfolded(store: Store) -> list[Commit]:
    """The ruling records, each read where it lies."""
    reader = Ledger(store)
    return list(reader.records(dict(reader.revisions())))


def committed(folder: str, shards: int) -> Store:
    store = Store.open(folder)
    for number in range(shards):
        put(store, record_of(number))
    return store


SHARDS = st.integers(0, 15)
CHANGES = st.one_of(
    st.tuples(st.just("commit"), SHARDS),
    st.tuples(st.just("retry"), SHARDS),
    st.tuples(st.just("redo"), SHARDS),
    st.tuples(st.just("delete"), SHARDS),
    st.tuples(st.just("fold"), SHARDS),
    st.tuples(st.just("lose"), SHARDS),
    st.tuples(st.just("tear"), SHARDS),
)


@given(st.lists(CHANGES, max_size=30), st.integers(0, 16))
@settings(max_examples=60, deadline=None)
def test_whatever_happened_folded_records_read_as_the_records_do(
    changes: list[tuple[str, int]], first: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = committed(folder, first)
        Ledger(store).fold()
        for step, (what, number) in enumerate(changes):
            change(store, what, number, step)
            assert list(Ledger(store).records()) == unfolded(store)
        Ledger(store).fold()
        assert list(Ledger(store).records()) == unfolded(store)


def change(store: Store, what: str, number: int, step: int) -> None:
    """Something that happens to an output."""
    shard, known = record_of(number).shard, files(store)
    revision = Ledger(store).revisions().get(shard)
    if what == "commit" and revision is None:
        put(store, record_of(number))
    elif what == "retry" and revision is not None:
        put(store, record_of(number, revision + 1, ok=step))
    elif what == "redo" and revision is not None:  # records deleted by hand, and the shard run again
        store.delete([commit_key(shard, at) for at in range(revision + 1)])
        put(store, record_of(number, ok=1000 + step))
    elif what == "delete" and revision is not None:
        store.delete([commit_key(shard, at) for at in range(revision + 1)])
    elif what == "fold":
        Ledger(store).fold()
    elif what == "lose" and known:
        store.delete([known[number % len(known)]])
    elif what == "tear" and known:
        key = known[number % len(known)]
        data = store.get(key)
        cut = len(data) * number // 16
        store.put(key, data[:cut] if number % 2 else data[:cut] + b"?" + data[cut + 1 :])


def test_whole_files_are_folded_once_and_the_rest_is_left(tmp_path: Path) -> None:
    store = committed(str(tmp_path), 2 * FEW + 3)
    assert Ledger(store).fold() == 2 * FEW
    before = files(store)
    assert len(before) == 2
    assert Ledger(store).fold() == 0
    assert files(store) == before
    put(store, record_of(11))
    assert Ledger(store).fold() == FEW
    infos = Ledger(store).revisions().infos.values()
    assert all(info in Folded.of(store) for info in infos)


def test_files_that_retries_made_useless_go(tmp_path: Path) -> None:
    store = committed(str(tmp_path), 2 * FEW)
    Ledger(store).fold()
    old = files(store)
    for number in range(2 * FEW):
        put(store, record_of(number, 1, ok=9))
    Ledger(store).fold()
    assert len(files(store)) == 2
    assert not set(files(store)) & set(old)
    assert {record.revision for record in Ledger(store).records()} == {1}


def test_a_damaged_record_is_told_as_ever_and_never_folded(tmp_path: Path) -> None:
    store = committed(str(tmp_path), FEW)
    Ledger(store).fold()
    store.put(commit_key("0000-000001"), b"{torn")
    with pytest.raises(LedgerError, match=r"0000-000001\.json"):
        list(Ledger(store).records())
    assert Ledger(store).fold() == 0


def test_a_run_folds_at_its_start_and_as_it_goes_on(tmp_path: Path) -> None:
    store = committed(str(tmp_path), FEW)
    with (behind := Folding(Ledger(store))):
        for number in range(FEW, 2 * FEW):
            put(store, record_of(number))
            behind.committed()
    assert all(info in Folded.of(store) for info in Ledger(store).revisions().infos.values())


def test_requests_of_a_folded_output_do_not_grow_with_its_shards(s3_bucket: str) -> None:
    store = committed(f"{s3_bucket}/out", 5 * FEW + 1)
    assert Ledger(store).fold() == 5 * FEW
    expected = unfolded(store)
    with counting(os.environ["AWS_ENDPOINT_URL"]) as counter:
        read = Store.open(store.uri, StoreOptions(endpoint=counter.url))
        assert list(Ledger(read).records()) == expected
        # Two listings, five files, and the record that is not folded yet.
        assert len(counter.headers) == 2 + 5 + 1


def test_a_resumed_run_looks_at_a_folded_output_once(s3_bucket: str) -> None:
    """All that a run asks of the ledger before its first shard, and what it folds beside that."""
    store = committed(f"{s3_bucket}/out", 5 * FEW + 3)
    assert Ledger(store).fold() == 5 * FEW
    with counting(os.environ["AWS_ENDPOINT_URL"]) as counter:
        ledger = Ledger(Store.open(store.uri, StoreOptions(endpoint=counter.url)))
        there = ledger.standing()
        assert list(ledger.records(there)) == unfolded(store)
        assert ledger.pending([], there.revisions) == []
        with Folding(ledger, there):
            pass
        # Two listings, five files, and the records that are not folded yet.
        assert len(counter.headers) == 2 + 5 + 3
    put(store, record_of(5 * FEW + 3))
    with Folding(Ledger(store), Ledger(store).standing()):
        pass
    assert len(files(store)) == 6


def test_folding_behind_a_resumed_job_asks_for_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_weights(tmp_path)
    write_dataset(tmp_path, range(2 * FEW + 1), 64)
    spec = {
        "kind": "segment",
        "name": "resumed",
        "input": {"uri": str(tmp_path / "images")},
        "model": {"weights": str(tmp_path / "tiny-0.safetensors"), "score_threshold": 0.5},
        "output": {"uri": str(tmp_path / "out")},
        "shards": {"images": 1},
    }
    job = load_text(json.dumps(spec), "resumed.yaml")
    run_job(job, local=True, console=Console(quiet=True))
    store = Store.open(str(tmp_path / "out"))
    last = max(info.key for info in store.list("commits/"))
    Ledger(store).fold()
    store.delete([last])
    asked: list[tuple[str, str]] = []
    list_all = Store.list

    def noted(store: Store, prefix: str = "") -> Iterator[ObjectInfo]:
        asked.append((prefix, threading.current_thread().name))
        return list_all(store, prefix)

    monkeypatch.setattr(Store, "list", noted)
    run_job(job, local=True, console=Console(quiet=True))
    assert (LEDGER, "MainThread") in asked
    assert not [prefix for prefix, thread in asked if thread.startswith("folding")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A complete output of five shards, four of them folded."""
    store = made_output(str(tmp_path / "out"), tmp_path / "in", 20)
    assert Ledger(store).fold() == FEW
    return store


def test_tables_are_the_same_with_and_without_the_folder(store: Store) -> None:
    run = tables.open(store.uri)
    commits, rows = run.commits, run.instances()
    store.delete(files(store))
    bare = tables.open(store.uri)
    assert (bare.commits, bare.instances()) == (commits, rows)


def test_verify_holds_the_folder_against_the_records(store: Store) -> None:
    assert verify(store).outcome is Outcome.GOOD
    [key] = files(store)
    folded = Folded.of(store).files[0].records or {}
    rows = [
        (name, etag, data.replace(b'"bytes": 100', b'"bytes": 101')) for (name, etag), data in folded.items()
    ]
    lying = folding._file(rows)
    store.delete([key])
    store.put(f"{LEDGER}000000-{hashlib.sha256(lying).hexdigest()[:16]}.parquet", lying)
    [finding] = verify(store).findings
    assert (finding.fault, "3 more" in finding.what) == (Fault.LEDGER, True)
    store.delete(files(store))
    store.put(key, b"torn")
    [finding] = verify(store).findings
    assert (finding.fault, finding.where) == (Fault.LEDGER, store.join(key))


def test_vacuum_takes_what_no_longer_holds(store: Store) -> None:
    assert not [orphan for orphan in find(store).orphans if orphan.kind is Kind.FOLDED]
    store.put(f"{LEDGER}000007-0123456789abcdef.parquet", b"torn")
    assert [orphan.kind for orphan in remove(store, find(store)).orphans] == [Kind.FOLDED]
    assert len(files(store)) == 1
    for record in list(Ledger(store).records()):
        put(store, replace(record, bytes=12345))
    assert [orphan.kind for orphan in remove(store, find(store)).orphans] == [Kind.FOLDED]
    assert not files(store)
