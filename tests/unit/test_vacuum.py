"""What belongs to nobody goes; what a run at work could need stays, whatever else lies around."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commit import attempt_prefix, commit_key, public_key, started_key
from pipeline.ledger import SETTLING, Ledger
from pipeline.leftovers import DAY, SEEN_KEY
from pipeline.manifest import InputSource, freeze
from pipeline.plan import PlanError
from pipeline.progress import progress_key
from pipeline.storage import Store
from pipeline.vacuum import Kind, Removed, find, remove
from pipeline.verify import Outcome, verify
from tests.made import contents, made_job, made_output, plan_of, prepare, work

FIRST, SECOND, LAST = "0000-000000", "0000-000001", "0000-000002"
HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_output(str(tmp_path / "out"), tmp_path / "in")


@pytest.fixture
def job(tmp_path: Path) -> Store:
    """A job that has committed nothing."""
    return made_job(str(tmp_path / "out"), tmp_path / "in")


def attempt_at(store: Store, shard: str, age: float) -> str:
    """The trace of an attempt that began so many seconds ago."""
    attempt = f"{int((time.time() - age) * 1000):013d}-{os.urandom(4).hex()}"
    store.put(started_key(shard, attempt), b"{}")
    return attempt


def sign(store: Store, worker: str, age: float, *shards: str) -> None:
    said = {"worker": worker, "time": time.time() - age, "shards": {shard: {} for shard in shards}}
    store.put(progress_key(worker), json.dumps(said).encode())


def vacuum(store: Store, older_than: float = DAY, now: float | None = None, public: bool = False) -> Removed:
    return remove(store, find(store, older_than, now), public=public)


def keys(store: Store, prefix: str = "") -> set[str]:
    return {info.key for info in store.list(prefix)}


def names(removed: Removed) -> list[tuple[Kind, str]]:
    return [(orphan.kind, orphan.name) for orphan in removed.orphans]


def test_a_complete_output_loses_nothing(store: Store) -> None:
    before = contents(store)
    found = find(store, 0)
    assert (found.orphans, found.waiting, found.unpublished) == ((), (), ())
    assert vacuum(store, 0, public=True) == Removed((), (), ())
    assert contents(store) == before


def test_finding_changes_nothing(store: Store) -> None:
    attempt_at(store, FIRST, 2 * DAY)
    store.put("_plans/abad1dea/manifest-00000.parquet", b"rows")
    before = contents(store)
    found = find(store)
    assert [(orphan.kind, orphan.bytes) for orphan in found.orphans] == [(Kind.LOST, 2)]
    assert [(orphan.kind, orphan.bytes) for orphan in found.waiting] == [(Kind.PLAN, 4)]
    assert contents(store) == before


def test_an_attempt_at_work_is_left_alone_and_can_commit(job: Store) -> None:
    record = prepare(job, FIRST)
    assert vacuum(job, public=True).orphans == ()
    Ledger(job).commit(record)
    for shard in (SECOND, LAST):
        work(job, shard)
    assert verify(job).outcome is Outcome.GOOD


@pytest.mark.parametrize(("age", "gone"), [(DAY - 60, False), (DAY + 60, True)])
def test_an_attempt_without_a_commit_goes_by_its_age(job: Store, age: float, gone: bool) -> None:
    attempt = attempt_at(job, FIRST, age)
    expected = [(Kind.DEAD, f"{FIRST}/{attempt}")] if gone else []
    assert names(vacuum(job)) == expected
    assert bool(keys(job, "_attempts/")) is not gone


def test_an_attempt_from_a_clock_that_is_ahead_stays(job: Store) -> None:
    attempt_at(job, FIRST, -HOUR)
    assert vacuum(job, 0).orphans == ()


def test_a_slow_shard_that_a_living_worker_shows_stays(job: Store) -> None:
    attempt_at(job, FIRST, 3 * DAY)
    sign(job, "w", 5, FIRST)
    assert vacuum(job).orphans == ()
    sign(job, "w", 2 * DAY, FIRST)
    assert {kind for kind, _ in names(vacuum(job))} == {Kind.DEAD, Kind.SIGN}


def test_an_attempt_that_came_second_goes_at_once_and_its_commit_is_refused(job: Store) -> None:
    late = prepare(job, FIRST)
    work(job, FIRST)
    assert [kind for kind, _ in names(vacuum(job))] == [Kind.LOST]
    assert Ledger(job).commit(late).attempt != late.attempt
    for shard in (SECOND, LAST):
        work(job, shard)
    assert verify(job).outcome is Outcome.GOOD
    assert keys(job, "_attempts/") == set()


def test_a_retry_of_a_committed_shard_may_be_at_work(store: Store) -> None:
    time.sleep(0.6)  # made records are half a second later than their attempt
    record = prepare(store, FIRST, revision=1)
    assert vacuum(store).orphans == ()
    Ledger(store).commit(record)
    assert verify(store).outcome is Outcome.GOOD


def test_a_flag_of_an_ended_run_goes_like_a_probe(store: Store) -> None:
    store.put("_stop/0123abcd", b"{}")
    store.put("_stop/notes.txt", b"somebody's own file")
    assert names(vacuum(store)) == []
    assert names(vacuum(store, now=time.time() + DAY)) == [(Kind.FLAG, "_stop/0123abcd")]
    assert keys(store, "_stop/") == {"_stop/notes.txt"}


def test_a_retry_whose_publication_was_cut_off_is_published(store: Store) -> None:
    record = replace(prepare(store, FIRST, revision=1), committed=time.time())
    store.put(commit_key(FIRST, 1), record.to_json().encode())
    store.delete([public_key("images", FIRST)])
    assert find(store, 0).unpublished == (FIRST,)
    assert vacuum(store).published == (FIRST,)
    found = find(store, 0)
    assert (found.orphans, found.unpublished) == ((), ())
    assert [orphan.kind for orphan in found.waiting] == [Kind.SETTLING]
    assert verify(store).outcome is Outcome.GOOD
    assert find(store, 0, time.time() + SETTLING).unpublished == (FIRST,), "to be published, and swept"


@pytest.mark.parametrize("published", [(), ("instances",), ("instances", "images")])
def test_a_commit_whose_publication_was_cut_off_is_published(job: Store, published: tuple[str, ...]) -> None:
    work(job, FIRST), work(job, SECOND)
    record = prepare(job, LAST)
    job.put(commit_key(LAST), record.to_json().encode())
    for table in published:
        job.copy(attempt_prefix(LAST, record.attempt) + f"{table}.parquet", public_key(table, LAST))
    assert find(job, 0).orphans == ()
    done = vacuum(job, 0, public=True)
    assert (done.orphans, done.published) == ((), (LAST,))
    assert verify(job).outcome is Outcome.GOOD
    assert keys(job, "_attempts/") == set()


def test_a_commit_that_cannot_be_published_is_told_and_kept(job: Store) -> None:
    record = prepare(job, FIRST)
    job.put(commit_key(FIRST), record.to_json().encode())
    job.delete([attempt_prefix(FIRST, record.attempt) + "images.parquet"])
    before = keys(job, "_attempts/")
    done = vacuum(job, 0)
    assert (done.orphans, done.published, len(done.stuck)) == ((), (), 1)
    assert public_key("images", FIRST) in done.stuck[0]
    assert keys(job, "_attempts/") == before


def test_an_attempt_that_commits_between_search_and_removal_stays(job: Store) -> None:
    record = prepare(job, FIRST)
    found = find(job, 0, time.time() + 1)
    assert [orphan.kind for orphan in found.orphans] == [Kind.DEAD]
    job.put(commit_key(FIRST), record.to_json().encode())
    assert remove(job, found).orphans == ()
    assert Ledger(job).repair() == [FIRST]


def test_public_files_without_a_commit_go_only_on_demand(store: Store) -> None:
    store.delete([commit_key(SECOND)])
    orphaned = {public_key(table, SECOND) for table in ("instances", "images")}
    (orphan,) = find(store).orphans
    assert (orphan.kind, set(orphan.keys)) == (Kind.PUBLIC, orphaned)
    assert vacuum(store).orphans == ()
    assert orphaned <= keys(store)
    assert names(vacuum(store, public=True)) == [(Kind.PUBLIC, SECOND)]
    assert not orphaned & keys(store)
    work(store, SECOND)
    assert verify(store).outcome is Outcome.GOOD


def test_public_files_of_a_shard_at_work_stay_on_demand_too(store: Store) -> None:
    store.delete([commit_key(SECOND)])
    found = find(store)
    record = prepare(store, SECOND)
    assert remove(store, found, public=True).orphans == ()
    Ledger(store).commit(record)
    assert verify(store).outcome is Outcome.GOOD
    assert remove(store, found, public=True).orphans == ()
    assert verify(store).outcome is Outcome.GOOD


def test_what_this_program_does_not_write_is_never_touched(store: Store) -> None:
    strange = [
        "images/_delta_log/0.json", "images/notes.txt", "instances/part-0.parquet", "_attempts/notes",
        "_attempts/0000-000000/x/started", "_attempts/0000-000000/123-ab/started", "ledger/0.parquet", "a/b",
        "_plans/mine/manifest-00000.parquet", "_plans/notes", "_probe/notes", "_progress/notes/w.json",
    ]  # fmt: skip
    for key in strange:
        store.put(key, b"x")
    assert vacuum(store, 0, public=True).orphans == ()
    assert set(strange) <= keys(store)


def test_a_plan_that_was_not_taken_goes_once_it_was_seen_long_enough(store: Store) -> None:
    store.put("_plans/0bad/manifest-00000.parquet", b"rows")
    store.put("_probe/0123", b"first")
    now = time.time()
    assert vacuum(store, HOUR, now).orphans == ()
    assert vacuum(store, HOUR, now + HOUR - 1).orphans == ()
    assert {kind for kind, _ in names(vacuum(store, HOUR, now + HOUR))} == {Kind.PLAN, Kind.PROBE}
    assert not keys(store, "_plans/0bad") | keys(store, "_probe") | keys(store, SEEN_KEY)
    assert verify(store).outcome is Outcome.GOOD


def test_a_plan_in_the_making_that_is_taken_meanwhile_stays(store: Store, tmp_path: Path) -> None:
    now = time.time()
    plan = freeze([InputSource(str(tmp_path / "in"))], store, 5, 1)
    record = store.get("plans/0001.json")
    store.delete(["plans/0001.json"])
    assert vacuum(store, HOUR, now).orphans == ()
    found = find(store, HOUR, now + HOUR)
    assert [orphan.name for orphan in found.orphans] == [f"_plans/{plan.id}"]
    store.put("plans/0001.json", record)
    assert remove(store, found).orphans == ()
    assert find(store, 0).orphans == ()


def test_nothing_is_called_an_orphan_while_a_plan_cannot_be_read(store: Store) -> None:
    store.put("plans/0000.json", b"{}")
    before = contents(store)
    with pytest.raises(PlanError):
        vacuum(store, 0)
    assert contents(store) == before


def test_signs_of_dead_workers_go(store: Store) -> None:
    sign(store, "dead", 2 * DAY)
    sign(store, "alive", 5)
    store.put(progress_key("broken"), b"{")
    assert names(vacuum(store)) == [(Kind.SIGN, progress_key("dead"))]
    assert keys(store, "_progress/") == {progress_key("alive"), progress_key("broken")}
    assert names(vacuum(store, DAY, time.time() + DAY + 60)) != []
    assert keys(store, "_progress/") == set()


def test_half_written_files_on_a_disk_go_by_their_age(store: Store) -> None:
    half = Path(store.uri) / "images" / ".tmp-0123456789abcdef"
    half.write_bytes(b"half")
    assert vacuum(store).orphans == ()
    os.utime(half, (time.time() - 2 * DAY,) * 2)
    assert names(vacuum(store)) == [(Kind.UNFINISHED, "images/.tmp-0123456789abcdef")]
    assert not half.exists()


DEEDS: dict[str, Callable[[Store, str], object]] = {
    "work": lambda store, shard: work(store, shard) if shard not in Ledger(store).revisions() else None,
    "die before the files": lambda store, shard: Ledger(store).begin(shard, "w"),
    "die before the commit": prepare,
    "die after the commit": lambda store, shard: store.create(
        commit_key(shard), prepare(store, shard).to_json().encode()
    ),
    "die long ago": lambda store, shard: attempt_at(store, shard, 2 * DAY),
    "vacuum": lambda store, shard: vacuum(store),
    "vacuum of an hour": lambda store, shard: vacuum(store, HOUR, public=True),
}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(sorted(DEEDS)), st.sampled_from([FIRST, SECOND, LAST])), max_size=10)
)
def test_no_order_of_deaths_and_vacuums_costs_a_row(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("deeds")
    store = made_job(str(folder / "out"), folder / "in")
    for deed, shard in deeds:
        DEEDS[deed](store, shard)
        assert verify(store).findings == []
    Ledger(store).repair()
    for shard in Ledger(store).pending([plan_of(store)]):
        work(store, shard)
    assert verify(store).outcome is Outcome.GOOD
    vacuum(store, 0, time.time() + 1, public=True)
    assert verify(store).outcome is Outcome.GOOD
    assert not keys(store, "_attempts/")
