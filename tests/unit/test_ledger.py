"""Exactly once, whoever dies and wherever: every step of the commit protocol is broken in turn."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit import (
    Commit,
    TableFile,
    Work,
    commit_key,
    parse_attempt_key,
    parse_commit_key,
    public_key,
    started_key,
)
from pipeline.ledger import FingerprintMismatch, Ledger, LedgerError
from pipeline.plan import load_plans
from pipeline.poison import read_culprits
from pipeline.retry import count_culprits, unfinished
from pipeline.schemas import TABLES
from pipeline.signs import read_signs
from pipeline.storage import ObjectInfo, Store, StoreError, Unavailable

SHARD = "0000-000003"


class Died(BaseException):
    """A process that ends on the spot: no handler may catch it."""


class Stepping:
    """A store that calls back before and after every request."""

    def __init__(self, store: Store, step: Callable[[str], None]) -> None:
        self._store, self._step = store, step
        self.uri = store.uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "join":
            return method

        def call(*arguments: Any) -> Any:
            self._step(f"before {name}")
            if name == "delete":
                for key in arguments[0]:  # each removal is a step of its own
                    self._store.delete([key])
                    self._step("after delete")
                return None
            result = method(*arguments)
            if isinstance(result, Iterator):
                result = list(result)
            self._step(f"after {name}")
            return result

        return call


def at(place: int, action: Callable[[], object]) -> Callable[[str], None]:
    """A step that does something at the `place`-th call, counted from 1."""
    calls = itertools.count(1)

    def step(_: str) -> None:
        if next(calls) == place:
            action()

    return step


def die() -> None:
    raise Died


def die_at(place: int) -> Callable[[str], None]:
    return at(place, die)


def files_of(attempt: str, shard: str = SHARD) -> dict[str, bytes]:
    """Both tables' files: equal in length for all attempts, different in content, as real ones may be."""
    return {table: f"{table} of {shard} by {attempt}".encode() for table in TABLES}


def record_of(attempt: str, shard: str = SHARD, revision: int = 0) -> Commit:
    return Commit(
        shard=shard,
        attempt=attempt,
        fingerprint="f",
        files={name: TableFile.of(data, 1) for name, data in files_of(attempt, shard).items()},
        counts={"ok": 2},
        classes={"tree": 3},
        instances=3,
        bytes=10,
        committed=1.0,
        work=Work(worker="w", first=1.0, last=2.0, busy=0.5, batches=1, seconds={"model": 0.5}),
        revision=revision,
    )


def make_attempt(store: Any, shard: str = SHARD) -> Commit:
    """What a worker does to the store for one shard."""
    ledger = Ledger(store)
    attempt = ledger.begin(shard, "worker")
    ledger.write(shard, attempt, files_of(attempt, shard))
    return ledger.commit(record_of(attempt, shard))


def resume(store: Store, shards: tuple[str, ...] = (SHARD,)) -> None:
    """What a later run does: heal, then do what is missing."""
    ledger = Ledger(store)
    ledger.repair()
    for shard in shards:
        if shard not in ledger.revisions():
            make_attempt(store, shard)


def assert_published(store: Store, shard: str = SHARD) -> None:
    ruling = Ledger(store).read(shard)
    assert ruling is not None
    for table in TABLES:
        data = store.get(public_key(table, shard))
        assert data == files_of(ruling.attempt, shard)[table]
        assert hashlib.sha256(data).hexdigest() == ruling.files[table].sha256


def assert_instances_first(store: Store) -> None:
    """A visible image row implies that its instances, of the same attempt, are visible."""
    names = {info.key for info in store.list()}
    if public_key("images", SHARD) in names:
        images, instances = (store.get(public_key(t, SHARD)).decode() for t in ("images", "instances"))
        assert images.split(" by ")[1] == instances.split(" by ")[1]
        assert commit_key(SHARD) in names


def steps_of(run: Callable[[Any], object], store: Store) -> int:
    """How many places there are at which `run` can be broken."""
    taken: list[str] = []
    run(Stepping(store, taken.append))
    return len(taken)


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], Store]:
    numbers = iter(range(10**6))
    return lambda: Store.open(str(tmp_path / f"out{next(numbers)}"))


def test_undisturbed_attempt_leaves_record_and_public_files_only(new_store: Callable[[], Store]) -> None:
    store = new_store()
    make_attempt(store)
    assert [info.key for info in store.list()] == [
        commit_key(SHARD),
        *sorted(public_key(t, SHARD) for t in TABLES),
    ]
    assert_published(store)


def test_death_at_every_step_is_healed(new_store: Callable[[], Store]) -> None:
    places = steps_of(make_attempt, new_store())
    assert places > 12
    for place in range(1, places + 1):
        store = new_store()
        with pytest.raises(Died):
            make_attempt(Stepping(store, die_at(place)))
        assert_instances_first(store)
        before = Ledger(store).read(SHARD)
        resume(store)
        assert_published(store)
        after = Ledger(store).read(SHARD)
        assert before is None or before == after, "a committed shard is never done again"


def test_death_during_repair_is_healed(new_store: Callable[[], Store]) -> None:
    def broken_after_commit() -> Store:
        store = new_store()

        def step(name: str) -> None:
            if name == "after create":
                raise Died

        with pytest.raises(Died):
            make_attempt(Stepping(store, step))
        return store

    places = steps_of(lambda store: Ledger(store).repair(), broken_after_commit())
    assert places > 8
    for place in range(1, places + 1):
        store = broken_after_commit()
        with pytest.raises(Died):
            Ledger(Stepping(store, die_at(place))).repair()  # type: ignore[arg-type]
        assert_instances_first(store)
        resume(store)
        assert_published(store)
        assert Ledger(store).repair() == [], "nothing is left to repair"


def test_second_attempt_at_any_moment_of_the_first(new_store: Callable[[], Store]) -> None:
    """The first one may be a zombie that wakes up after the shard was taken: it ends, and changes nothing."""
    for place in range(1, steps_of(make_attempt, new_store()) + 1):
        store = new_store()
        second: list[Commit] = []
        first = make_attempt(Stepping(store, at(place, lambda: second.append(make_attempt(store)))))  # noqa: B023
        assert second == [first], "both are told the same winner"
        assert_published(store)
        assert not list(store.list("_attempts/")), "the loser sweeps its own files too"


def test_second_attempt_that_dies_anywhere_at_any_moment_of_the_first(new_store: Callable[[], Store]) -> None:
    places = steps_of(make_attempt, new_store())
    for place, death in itertools.product(range(1, places + 1), range(1, places + 1, 2)):
        store = new_store()

        def second(store: Store = store, death: int = death) -> None:
            with pytest.raises(Died):
                make_attempt(Stepping(store, die_at(death)))
            assert_instances_first(store)

        make_attempt(Stepping(store, at(place, second)))
        assert_published(store)


def test_concurrent_attempts_publish_one(new_store: Callable[[], Store]) -> None:
    for _ in range(10):
        store = new_store()
        barrier = threading.Barrier(4)

        def attempt(_: int, store: Store = store, barrier: threading.Barrier = barrier) -> Commit:
            barrier.wait()
            return make_attempt(store)

        with ThreadPoolExecutor(4) as pool:
            rulings = list(pool.map(attempt, range(4)))
        assert all(ruling == rulings[0] for ruling in rulings)
        assert_published(store)
        assert not list(store.list("_attempts/"))


class LostAnswer(Stepping):
    """A store whose `create` does its work (or not) and then fails to say so."""

    def __init__(self, store: Store, written: bool) -> None:
        super().__init__(store, lambda _: None)
        self.written = written

    def create(self, key: str, data: bytes) -> bool:
        if self.written:
            self._store.create(key, data)
        raise Unavailable(f"{key}: timed out")


def test_lost_answer_to_our_own_create_is_success(new_store: Callable[[], Store]) -> None:
    store = new_store()
    ruling = make_attempt(LostAnswer(store, written=True))
    assert Ledger(store).read(SHARD) == ruling
    assert_published(store)


def test_lost_create_leaves_the_shard_pending(new_store: Callable[[], Store]) -> None:
    store = new_store()
    with pytest.raises(Unavailable, match="timed out"):
        make_attempt(LostAnswer(store, written=False))
    assert Ledger(store).revisions() == {}
    resume(store)
    assert_published(store)


def test_own_record_found_after_a_refused_create_is_success(new_store: Callable[[], Store]) -> None:
    """A store repeats a create whose answer was lost and then says `exists`: that record is ours."""

    class Repeats(Stepping):
        def create(self, key: str, data: bytes) -> bool:
            self._store.create(key, data)
            return self._store.create(key, data)

    store = new_store()
    ruling = make_attempt(Repeats(store, lambda _: None))
    assert Ledger(store).read(SHARD) == ruling
    assert_published(store)
    assert not list(store.list("_attempts/"))


def test_highest_revision_rules_and_is_published_last(new_store: Callable[[], Store]) -> None:
    store = new_store()
    ledger = Ledger(store)
    old = make_attempt(store)
    attempt = ledger.begin(SHARD, "retry")
    ledger.write(SHARD, attempt, files_of(attempt))
    newer = record_of(attempt, revision=1)
    assert ledger.commit(newer) == newer
    assert ledger.revisions() == {SHARD: 1}
    assert ledger.read(SHARD) == newer
    assert_published(store)
    # The old one's publisher wakes up with its files still at hand, and finds that it was overtaken.
    ledger.write(SHARD, old.attempt, files_of(old.attempt))
    ledger.write(SHARD, attempt, files_of(attempt))
    ledger.publish(old)
    assert_published(store)


def test_public_file_changed_by_others_is_reported(new_store: Callable[[], Store]) -> None:
    store = new_store()
    commit = make_attempt(store)
    store.put(public_key("images", SHARD), b"x" * commit.files["images"].size)
    with pytest.raises(LedgerError, match="somebody changed the output"):
        Ledger(store).publish(commit)


def test_repair_leaves_unfinished_attempts_of_others_alone(new_store: Callable[[], Store]) -> None:
    store = new_store()
    ledger = Ledger(store)
    attempt = ledger.begin("0000-000009", "another worker")
    assert ledger.repair() == []
    assert [info.key for info in store.list("_attempts/")] == [f"_attempts/0000-000009/{attempt}/started"]


def test_repair_leaves_what_is_no_attempt_of_ours_alone(new_store: Callable[[], Store]) -> None:
    store = new_store()
    names = (".DS_Store", "notes/mine.txt", f"{SHARD}/._x", f"{SHARD}/mine/at")
    strange = [f"_attempts/{name}" for name in names]
    for key in strange:
        store.put(key, b"x")
    assert Ledger(store).repair() == []
    make_attempt(store)
    assert Ledger(store).repair() == []
    assert [info.key for info in store.list("_attempts/")] == sorted(strange)


def test_only_keys_of_attempts_name_one() -> None:
    attempt = "1700000000000-0123abcd"
    assert parse_attempt_key(started_key(SHARD, attempt)) == (SHARD, attempt)
    for name in ("", f"{SHARD}/", f"{SHARD}/{attempt}/", f"{SHARD}/x/at"):
        assert parse_attempt_key(f"_attempts/{name}") is None


class Marked(Store):
    """A bucket in which somebody's console left an object for each folder."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        yield ObjectInfo(prefix, 0, None)
        yield from super().list(prefix)


def test_a_folders_marker_is_none_of_the_records_in_it(new_store: Callable[[], Store]) -> None:
    store = new_store()
    made = make_attempt(store)
    marked = Marked(store._location, store.options)
    assert Ledger(marked).repair() == []
    assert list(Ledger(marked).records()) == [made]
    assert load_plans(marked) == read_signs(marked) == unfinished(marked) == []
    assert read_culprits(marked, SHARD) == count_culprits(marked) == {}


def test_claim_stands_for_equal_settings_and_refuses_others(new_store: Callable[[], Store]) -> None:
    ledger = Ledger(new_store())
    settings = {"detect": {"score_threshold": 0.3}, "batch_images": 8}
    job = {"name": "first", "fingerprint": "a", "settings": settings}
    assert ledger.claim(job) == job
    assert ledger.claim({**job, "name": "second"}) == job
    changed = {"detect": {"score_threshold": 0.5}, "batch_images": 8}
    other = {**job, "fingerprint": "b", "settings": changed}
    with pytest.raises(FingerprintMismatch, match=r"detect\.score_threshold: 0\.3 -> 0\.5") as caught:
        ledger.claim(other)
    assert caught.value.differences == ["detect.score_threshold: 0.3 -> 0.5"]
    assert "another output" in str(caught.value)
    assert ledger.job() == job


def test_claim_of_a_foreign_job_file_is_refused(new_store: Callable[[], Store]) -> None:
    store = new_store()
    store.put("job.json", b'["not ours"]')
    with pytest.raises(LedgerError, match="name another output"):
        Ledger(store).claim({"fingerprint": "a", "settings": {}})


def test_records_come_in_order_and_survive_their_json(new_store: Callable[[], Store]) -> None:
    store = new_store()
    made = [make_attempt(store, f"0000-{number:06d}") for number in (7, 1, 4)]
    store.put("commits/notes.txt", b"somebody's own file")
    assert list(Ledger(store).records()) == sorted(made, key=lambda commit: commit.shard)


BAD_RECORDS = [b"", b"[]", b"{}", b"\xff", b'{"version": 99}', b'{"version": 1, "shard": "a"}']


@pytest.mark.parametrize("data", BAD_RECORDS)
def test_bad_record_is_named(new_store: Callable[[], Store], data: bytes) -> None:
    store = new_store()
    store.put(commit_key(SHARD), data)
    with pytest.raises(LedgerError, match=r"commits/0000-000003\.json"):
        Ledger(store).read(SHARD)


def test_commit_keys_round_trip() -> None:
    for revision in (0, 1, 12):
        assert parse_commit_key(commit_key(SHARD, revision)) == (SHARD, revision)
    for key in ("commits/a.txt", "commits/a/b.json", "other/a.json", "commits/a.rx.json"):
        assert parse_commit_key(key) is None


def test_start_refuses_a_store_that_overwrites(new_store: Callable[[], Store]) -> None:
    class Careless(Store):
        def create(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    store = new_store()
    Ledger(store).start()
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="conditional puts"):
        Ledger(Careless(store._location, store.options)).start()
