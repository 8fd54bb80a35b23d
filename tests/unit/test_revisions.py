"""A retry takes a shard's place whatever else happens to it: late publishers, deaths, copies under way."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commit import Commit, TableFile, Work, attempt_key, commit_key, public_key
from pipeline.ledger import SETTLING, Ledger, LedgerError, settled
from pipeline.schemas import TABLES
from pipeline.storage import Store
from pipeline.vacuum import Kind, find, remove

SHARD = "0000-000003"


class Killed(BaseException):
    """A process that ends on the spot."""


def files_of(attempt: str) -> dict[str, bytes]:
    """Equal in length for all attempts, different in content, as real ones may be."""
    return {table: f"{table} by {attempt}".encode() for table in TABLES}


def make_attempt(store: Any, revision: int = 0) -> Commit:
    """What a worker does to the store for one revision of the shard."""
    ledger = Ledger(store)
    attempt = ledger.begin(SHARD, "worker")
    files = files_of(attempt)
    ledger.write(SHARD, attempt, files)
    return ledger.commit(
        Commit(
            shard=SHARD,
            attempt=attempt,
            fingerprint="f",
            files={name: TableFile.of(data, 1) for name, data in files.items()},
            counts={"ok": 2},
            classes={},
            instances=0,
            bytes=0,
            committed=time.time(),
            work=Work("w"),
            revision=revision,
        )
    )


def ruling_of(store: Store) -> Commit:
    ruling = Ledger(store).read(SHARD)
    assert ruling is not None
    return ruling


def assert_published(store: Store) -> None:
    ruling = ruling_of(store)
    for table in TABLES:
        data = store.get(public_key(table, SHARD))
        assert data == files_of(ruling.attempt)[table]
        assert hashlib.sha256(data).hexdigest() == ruling.files[table].sha256


def assert_at_hand(store: Store) -> None:
    """The ruling rows are never lost: each file is public, or lies under its attempt's name."""
    ruling = ruling_of(store)
    for table in TABLES:
        names = {info.key for info in store.list()}
        keys = (public_key(table, SHARD), attempt_key(SHARD, ruling.attempt, table))
        assert any(store.get(key) == files_of(ruling.attempt)[table] for key in keys if key in names)


def unpublished(store: Store, step: str = "after create") -> Store:
    """Let the first revision's worker die right after its commit."""

    def die(name: str) -> None:
        if name == step:
            raise Killed

    with pytest.raises(Killed):
        make_attempt(Stepping(store, die))
    return store


class Stepping:
    """A store that calls back before and after every request; a copy under way is a moment of its own."""

    def __init__(self, store: Store, step: Callable[[str], None]) -> None:
        self._store, self._step = store, step
        self.uri = store.uri

    def copy(self, source: str, target: str) -> None:
        """The service reads the source when it is asked, and puts the copy in place when it pleases."""
        self._step("before copy")
        data = self._store.get(source)
        try:
            self._step("under way")
        finally:  # who asked may be dead by then
            self._store.put(target, data)
        self._step("after copy")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "join":
            return method

        def call(*arguments: Any) -> Any:
            self._step(f"before {name}")
            if name == "delete":
                for key in arguments[0]:
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
    calls = itertools.count(1)

    def step(_: str) -> None:
        if next(calls) == place:
            action()

    return step


def kill() -> None:
    raise Killed


def steps_of(run: Callable[[Any], object], store: Store) -> int:
    taken: list[str] = []
    run(Stepping(store, taken.append))
    return len(taken)


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], Store]:
    numbers = iter(range(10**6))
    return lambda: Store.open(str(tmp_path / f"out{next(numbers)}"))


def retry(store: Any) -> Commit:
    """What a retry's worker does, if nobody else did it since."""
    standing = ruling_of(store)
    return standing if standing.revision else make_attempt(store, revision=1)


def test_death_at_every_step_of_a_retry_is_healed(new_store: Callable[[], Store]) -> None:
    def committed() -> Store:
        store = new_store()
        make_attempt(store)
        return store

    places = steps_of(retry, committed())
    assert places > 20
    for place in range(1, places + 1):
        store = committed()
        with pytest.raises(Killed):
            retry(Stepping(store, at(place, kill)))
        assert_at_hand(store)
        Ledger(store).repair()
        assert_published(store)
        retry(store)
        assert ruling_of(store).revision == 1
        assert_published(store)


def test_a_retry_at_any_moment_of_the_first_publisher(new_store: Callable[[], Store]) -> None:
    """The first may even have a copy under way that lands on top of the retry's."""

    def publish(store: Any) -> None:
        Ledger(store).publish(ruling_of(store))

    for place in range(1, steps_of(publish, unpublished(new_store())) + 1):
        store = unpublished(new_store())
        publish(Stepping(store, at(place, lambda: retry(store))))  # noqa: B023
        assert ruling_of(store).revision == 1
        assert_published(store)


def test_the_first_publisher_at_any_moment_of_a_retry(new_store: Callable[[], Store]) -> None:
    first = new_store()
    old = ruling_of(unpublished(first))
    for place in range(1, steps_of(retry, first) + 1):
        store = unpublished(new_store())
        old = ruling_of(store)
        retry(Stepping(store, at(place, lambda: Ledger(store).publish(old))))  # noqa: B023
        assert ruling_of(store).revision == 1
        assert_published(store)


def test_a_late_publisher_finds_nothing_to_copy(new_store: Callable[[], Store]) -> None:
    store = unpublished(new_store())
    old = ruling_of(store)
    retry(store)
    assert not {info.key for info in store.list(f"_attempts/{SHARD}/{old.attempt}/")}
    Ledger(store).publish(old)
    assert_published(store)


def test_an_old_copy_that_lands_after_everything_is_undone(new_store: Callable[[], Store]) -> None:
    """Its publisher is dead, and the retry is done: the next run, or a vacuum, puts the right rows back."""
    for heal in (lambda s: Ledger(s).repair(), lambda s: remove(s, find(s))):
        store = new_store()
        old = make_attempt(store)
        new = retry(store)
        for table in TABLES:
            store.put(public_key(table, SHARD), files_of(old.attempt)[table] + b"+" * (table == "images"))
        assert_at_hand(store)
        heal(store)
        assert_published(store)
        assert ruling_of(store) == new


def test_files_of_a_retry_go_once_it_is_settled(new_store: Callable[[], Store]) -> None:
    store = new_store()
    make_attempt(store)
    new = retry(store)
    names = {info.key for info in store.list("_attempts/")}
    assert names == {attempt_key(SHARD, new.attempt, table) for table in TABLES}, "no note of a beginning"
    (kept,) = find(store).waiting
    assert kept.kind is Kind.SETTLING
    assert not find(store, older_than=0).orphans
    earlier = replace(new, committed=time.time() - SETTLING)
    assert settled(earlier)
    store.put(commit_key(SHARD, 1), earlier.to_json().encode())
    assert Ledger(store).repair() == [SHARD]
    assert not list(store.list("_attempts/"))
    assert Ledger(store).repair() == []
    assert_published(store)


def test_a_changed_public_file_is_put_right_while_the_attempt_is_kept(new_store: Callable[[], Store]) -> None:
    store = new_store()
    make_attempt(store)
    new = retry(store)
    store.put(public_key("images", SHARD), b"x")
    Ledger(store).publish(new)
    assert_published(store)
    Ledger(store)._sweep(SHARD, new.attempt)
    store.put(public_key("images", SHARD), b"x")
    with pytest.raises(LedgerError, match="somebody changed the output"):
        Ledger(store).publish(new)


class Process(threading.Thread):
    """A process that does one request when told to, may die at any, and leaves copies under way."""

    def __init__(
        self, store: Store, work: Callable[[Any], object], landing: list[Callable[[], None]], death: int
    ) -> None:
        super().__init__(daemon=True)
        self._work, self._landing, self._real = work, landing, store
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._left = death
        self.failed: BaseException | None = None
        self.ended = False
        self.store = Stepping(store, self._step)
        self.store.copy = self._copy  # type: ignore[method-assign]
        self.start()
        self._stopped.acquire()

    def run(self) -> None:
        try:
            self._step("start")
            self._work(self.store)
        except Killed:
            pass
        except BaseException as error:
            self.failed = error
        self.ended = True
        self._stopped.release()

    def turn(self) -> None:
        """Let it go on to its next step, or die there."""
        if not self.ended:
            self._go.release()
            self._stopped.acquire()

    def _step(self, _: str) -> None:
        self._stopped.release()
        self._go.acquire()
        self._left -= 1
        if not self._left:
            raise Killed

    def _copy(self, source: str, target: str) -> None:
        self._step("before copy")
        data = self._real.get(source)
        landed: list[bool] = []

        def land() -> None:
            if not landed:
                landed.append(True)
                self._real.put(target, data)

        self._landing.append(land)
        self._step("under way")  # killed here, the copy lands when the service pleases
        land()
        self._step("after copy")


def interleaved(
    store: Store, works: list[Callable[[Any], object]], deaths: list[int], turns: list[int]
) -> list[Callable[[], None]]:
    """Run processes request by request in the order of `turns`, each up to its death, then to their ends.

    Returns what lands the copies that were begun; those of the dead may be under way still.
    """
    landing: list[Callable[[], None]] = []
    processes = [Process(store, work, landing, death) for work, death in zip(works, deaths, strict=True)]
    for number in turns:
        if number < len(processes):
            processes[number].turn()
        elif landing:
            landing[number % len(landing)]()
        assert_at_hand(store)
    while not all(process.ended for process in processes):
        for process in processes:
            process.turn()
    assert [process.failed for process in processes] == [None] * len(processes)
    return landing


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    turns=st.lists(st.integers(0, 6), max_size=120),
    deaths=st.lists(st.integers(0, 24), min_size=5, max_size=5),
)
def test_any_interleaving_of_publishers_retries_and_deaths(turns: list[int], deaths: list[int]) -> None:
    """Two late publishers of the first revision, two retries and a repair, request by request."""
    with tempfile.TemporaryDirectory() as folder:
        store = unpublished(Store.open(folder))
        old = ruling_of(store)
        works = [
            lambda s: Ledger(s).publish(old),
            lambda s: Ledger(s).publish(old),
            retry,
            retry,
            lambda s: Ledger(s).repair(),
        ]
        landing = interleaved(store, works, deaths, turns)
        retry(store)
        for land in landing:  # what was under way of the dead lands last
            land()
        assert_at_hand(store)
        Ledger(store).repair()
        assert ruling_of(store).revision == 1
        assert_published(store)
