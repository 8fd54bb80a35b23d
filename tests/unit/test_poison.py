"""What the store remembers of attempts that died: who is suspected, who is to blame, and who never is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import poison
from pipeline.ledger import Ledger, LedgerError
from pipeline.leftovers import Kind, find
from pipeline.poison import Note, Past, at_key, convict, look_back, poison_key, put_culprit, read_culprits
from pipeline.progress import progress_key
from pipeline.storage import Store

SHARD = "0000-000000"
ODD_NAMES = ["a/ü %20.png", "line\nbreak", "..", "a" * 900, "\udcff", "a/ü%20.png"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "out"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "STIR", 0.3)


def leave(store: Store, *images: str, worker: str = "gone", began: bool = True) -> Note:
    """What an attempt that died with these images inside the model leaves behind."""
    attempt = Ledger(store).begin(SHARD, worker)
    note = Note(attempt, worker, images, 12.5)
    if images:
        store.put(at_key(SHARD, attempt), note.to_json())
    if not began:
        store.delete([f"_attempts/{SHARD}/{attempt}/started"])
    return note


def past(store: Store) -> Past:
    return look_back(store, SHARD, "")


def test_attempts_that_began_and_did_not_end_are_counted(store: Store) -> None:
    assert past(store) == Past()
    ledger = Ledger(store)
    mine, other = ledger.begin(SHARD, "me"), ledger.begin(SHARD, "other")
    ledger.begin("0000-000001", "me")
    ledger.write(SHARD, other, {"instances": b"1", "images": b"2"})
    assert look_back(store, SHARD, mine).unfinished == 1
    ledger.abandon(SHARD, other)
    assert look_back(store, SHARD, mine).unfinished == 0


def test_deaths_before_the_last_commit_are_told_from_those_since(store: Store) -> None:
    before = leave(store)
    time.sleep(0.002)  # attempts are named after the millisecond that they began in
    leave(store)
    assert (past(store).unfinished, past(store).lately) == (2, 2)
    assert look_back(store, SHARD, "", since=before.attempt) == Past(2, lately=1)


def test_an_attempt_that_ended_with_an_error_accuses_nobody(store: Store) -> None:
    """Its batch was in the model's queue yet, and noted after the rest was swept."""
    leave(store, "a", began=False)
    assert past(store) == Past()


def test_suspicion_falls_on_batches_and_blame_on_images_that_were_alone(store: Store) -> None:
    leave(store, "a", "b", "c")
    leave(store, "b", "d")
    leave(store, "a")
    assert past(store).unfinished == 3
    assert [past(store).deaths(images) for images in (["a", "x"], ["c", "d"], ["x"], ["b"])] == [1, 2, 0, 2]
    assert past(store).accused() == {}
    leave(store, "a")
    assert list(past(store).accused()) == ["a"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"images": 3, "worker": "w", "time": 1}', b"\xff"])
def test_a_note_that_nobody_could_have_written_accuses_nobody(store: Store, data: bytes) -> None:
    store.put(at_key(SHARD, leave(store).attempt), data)
    assert past(store) == Past(1, lately=1)


def test_what_is_dead_does_not_stir(store: Store) -> None:
    leave(store, "a")
    leave(store, "a", worker="gone too")
    store.put(progress_key("gone too"), b"its last sign")
    assert convict(store, SHARD, past(store), ()) == {"a"}
    assert convict(store, SHARD, past(store), {"a"}) == set(), "known already"


@pytest.mark.parametrize("live", ["its worker gives a sign", "the batch is out", "the next batch is in"])
def test_a_live_attempt_costs_no_image(store: Store, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver's: it has one image alone inside the model, where an attempt died before."""
    leave(store, "a")
    note = leave(store, "a", worker="alive")
    key = at_key(SHARD, note.attempt)
    store.put(progress_key("alive"), b"sign 1")
    act = {
        "its worker gives a sign": lambda: store.put(progress_key("alive"), b"sign 2"),
        "the batch is out": lambda: store.delete([key]),
        "the next batch is in": lambda: store.put(key, Note(note.attempt, "alive", ("a",), 13.5).to_json()),
    }[live]
    # It stirs while it is watched, however long that is.
    monkeypatch.setattr(poison, "time", SimpleNamespace(time=time.time, sleep=lambda _: act()))
    assert convict(store, SHARD, past(store), ()) == set()


def test_of_two_verdicts_the_first_stands(store: Store) -> None:
    assert put_culprit(store, SHARD, "first", "a", "it crashed") == "it crashed"
    assert put_culprit(store, SHARD, "second", "a", "it hung") == "it crashed"
    assert read_culprits(store, SHARD) == {"a": "it crashed"}
    assert read_culprits(store, "0000-000001") == {}


def test_names_may_be_odd(store: Store) -> None:
    for name in ODD_NAMES:
        put_culprit(store, SHARD, "1", name, f"of {name}")
        leave(store, name)
        leave(store, name)
    assert read_culprits(store, SHARD) == {name: f"of {name}" for name in ODD_NAMES}
    assert set(past(store).accused()) == set(ODD_NAMES)
    assert convict(store, SHARD, past(store), ()) == set(ODD_NAMES)


def test_a_record_that_nobody_could_have_written_is_named(store: Store) -> None:
    store.put(poison_key(SHARD, "a"), b"{}")
    with pytest.raises(LedgerError, match=rf"_poison/{SHARD}/\w+\.json was not written by this program"):
        read_culprits(store, SHARD)


def test_a_vacuum_takes_the_traces_and_leaves_the_verdicts(store: Store) -> None:
    leave(store, "a", "b")
    put_culprit(store, SHARD, "1", "a", "it crashed")
    leftovers = find(store, older_than=0)
    (orphan,) = leftovers.orphans
    assert orphan.kind is Kind.DEAD
    assert sorted(key.rpartition("/")[2] for key in orphan.keys) == ["at", "started"]
    assert leftovers.waiting == ()
    assert json.loads(store.get(poison_key(SHARD, "a")))["image_id"] == "a"
