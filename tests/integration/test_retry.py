"""A retry does what ended badly again and nothing else, whoever dies and whoever else is at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline import tables
from pipeline.engine import run_local
from pipeline.ledger import Ledger, LedgerError
from pipeline.poison import put_culprit
from pipeline.retry import Retry, count_culprits, forget_culprits, request, unfinished
from pipeline.storage import Store
from pipeline.verify import Outcome, verify
from tests.job import Job, settings_of, start
from tests.tiny import encoded, picture

CUT, NOTHING = "a/cut.jpg", "b/nothing.png"
WRITES = ("put", "create", "copy", "delete")


class Died(BaseException):
    """The process ends on the spot."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in two shards of four; in each shard one that is broken."""
    for number in range(6):
        path = tmp_path / "in" / ("a" if number % 2 else "b") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    (tmp_path / "in" / CUT).write_bytes(encoded(picture(7), "JPEG")[:900])
    (tmp_path / "in" / NOTHING).write_bytes(b"")
    return tmp_path / "in"


def mend(folder: Path, *names: str) -> None:
    for name in names or (CUT, NOTHING):
        (folder / name).write_bytes(encoded(picture(7)))


@pytest.fixture
def job(folder: Path, weights: Path, tmp_path: Path) -> Job:
    """A complete job."""
    job = start(settings_of(str(folder), weights, str(tmp_path / "out")))
    run_local(job.settings, job.pending, on_result=lambda _: None)
    assert job.run.complete
    return job


def wanted(job: Job, *statuses: str) -> Retry:
    commits = [c for c in Ledger(job.store).records() if any(c.counts.get(s) for s in statuses)]
    return Retry(frozenset(statuses), {commit.shard: commit.revision for commit in commits})


def do(job: Job, retry: Retry) -> list[Any]:
    results: list[Any] = []
    run_local(job.settings, retry.left(Ledger(job.store)), on_result=results.append, retry=retry)
    return results


def rows_of(run: tables.Run, *names: str) -> tuple[list[Any], list[Any]]:
    """Rows of both tables, of the named images or of all."""
    only = pc.field("image_id").isin(list(names)) if names else None
    return run.images(filter=only).to_pylist(), run.instances(filter=only).to_pylist()


def others(run: tables.Run, *names: str) -> tuple[list[Any], list[Any]]:
    but = ~pc.field("image_id").isin(list(names))
    return run.images(filter=but).to_pylist(), run.instances(filter=but).to_pylist()


def test_only_what_ended_badly_is_done_again(job: Job, folder: Path, tmp_path: Path, weights: Path) -> None:
    before = job.run
    untouched = others(before, CUT, NOTHING)
    kept = [commit for commit in before.commits if not commit.counts.get("corrupt")]
    mend(folder, CUT)
    retry = wanted(job, "corrupt", "failed")
    results = do(job, retry)
    assert [result.error for result in results] == [None, None]
    after = job.run
    assert others(after, CUT, NOTHING) == untouched, "attempt, times and all"
    assert verify(job.store, full=True).outcome is Outcome.GOOD
    assert retry.left(Ledger(job.store)) == []
    assert [c for c in after.commits if c in kept] == kept
    # The same as a job that found the file whole, but for what a batch of other images changes by rounding.
    whole = start(settings_of(str(folder), weights, str(tmp_path / "whole")))
    run_local(whole.settings, whole.pending, on_result=lambda _: None)
    mine, theirs = rows_of(after, CUT), rows_of(whole.run, CUT)
    assert mine[0][0]["status"] == theirs[0][0]["status"] == "ok"
    assert mine[0][0]["etag"] == theirs[0][0]["etag"], "as it was read"
    assert len(mine[1]) == len(theirs[1]) > 0
    for one, other in zip(mine[1], theirs[1], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["category"] == other["category"]
    assert after.images(["image_id"]).equals(whole.run.images(["image_id"])), "the manifest's order"


def test_the_record_says_what_the_retry_did(job: Job, folder: Path) -> None:
    mend(folder, CUT)
    do(job, wanted(job, "corrupt"))
    for commit in job.run.commits:
        mended = commit.shard == "0000-000000"
        assert commit.counts == ({"ok": 4} if mended else {"corrupt": 1, "ok": 3})
        assert (commit.revision, commit.work.images) == (1, 1)
        assert sum(commit.classes.values()) == commit.instances == commit.files["instances"].rows
        images = job.run.images(filter=pc.field("attempt") == commit.attempt)
        assert images["image_id"].to_pylist() == [CUT if mended else NOTHING]


def test_a_retry_without_anything_to_do_changes_nothing(job: Job) -> None:
    retry = wanted(job, "corrupt")
    do(job, retry)
    before = [(info.key, info.etag) for info in job.store.list("commits/")]
    do(job, Retry(retry.statuses, retry.revisions))
    run_local(job.settings, sorted(retry.revisions), on_result=lambda _: None, retry=retry)
    assert [(info.key, info.etag) for info in job.store.list("commits/")] == before
    assert wanted(job, "missing").revisions == {}


def test_a_retry_may_be_retried(job: Job, folder: Path) -> None:
    for _ in range(3):
        do(job, wanted(job, "corrupt"))
    mend(folder)
    do(job, wanted(job, "corrupt"))
    assert [commit.revision for commit in job.run.commits] == [4, 4]
    assert verify(job.store).outcome is Outcome.GOOD
    assert verify(job.store).statuses == {"ok": 8}


def test_two_retries_at_once(job: Job, folder: Path) -> None:
    mend(folder)
    retry = wanted(job, "corrupt")
    barrier = threading.Barrier(2)

    def one(_: int) -> list[Any]:
        barrier.wait()
        return do(job, retry)

    with ThreadPoolExecutor(2) as pool:
        results = [result for both in pool.map(one, range(2)) for result in both]
    assert {result.error for result in results} == {None}
    assert [commit.revision for commit in job.run.commits] == [1, 1]
    assert verify(job.store, full=True).outcome is Outcome.GOOD


def test_tables_opened_before_say_that_they_are_old(job: Job) -> None:
    opened = tables.open(job.store.uri)
    assert opened.commits
    do(job, wanted(job, "corrupt"))
    with pytest.raises(LedgerError, match="retried since these tables were opened"):
        opened.images()
    assert tables.open(job.store.uri).images().num_rows == 8


def test_images_that_kill_their_worker_are_spared(job: Job, folder: Path) -> None:
    mend(folder)
    put_culprit(job.store, "0000-000000", "a", CUT, "ends its process")
    retry = wanted(job, "corrupt")
    do(job, retry)
    (row,) = rows_of(job.run, CUT)[0]
    assert row["status"] == "corrupt", "as it stood"
    assert [commit.revision for commit in job.run.commits] == [0, 1]
    assert count_culprits(job.store) == {"0000-000000": 1}
    forget_culprits(job.store, {"0000-000000"})
    do(job, wanted(job, "corrupt"))
    assert verify(job.store).statuses == {"ok": 8}


def test_deaths_before_the_last_commit_do_not_give_a_shard_up(
    folder: Path, weights: Path, tmp_path: Path
) -> None:
    """Its four images died in the model, with --poison they are tried again, and none of it is known."""
    mend(folder)
    job = start(settings_of(str(folder), weights, str(tmp_path / "out")))
    ledger, (shard, other) = Ledger(job.store), job.pending
    for _ in range(2 + 3 * 4):
        ledger.begin(shard, "gone")
    for number, name in enumerate(("a/001.png", "a/003.png", "a/005.png", CUT)):
        put_culprit(job.store, shard, str(number), name, "ends its process")
    run_local(job.settings, [shard, other], on_result=lambda _: None)
    assert verify(job.store).statuses == {"failed": 4, "ok": 4}
    _, retry = request(job.store, {"failed"}, wanted(job, "failed").revisions, poison=True)
    assert [result.error for result in do(job, retry)] == [None]
    assert verify(job.store).statuses == {"ok": 8}


def test_what_a_retry_learns_of_deadly_images_is_kept_when_it_goes_on(job: Job) -> None:
    """With --local a death ends the command, and the same command goes on."""
    shard = "0000-000000"
    put_culprit(job.store, shard, "a", CUT, "ends its process")
    first, retry = request(job.store, {"failed"}, {shard: 0}, poison=True)
    assert count_culprits(job.store) == {}
    put_culprit(job.store, shard, "b", CUT, "ends its process")
    assert request(job.store, {"failed"}, {shard: 0}, poison=True) == (first, retry)
    assert count_culprits(job.store) == {shard: 1}
    without, _ = request(job.store, {"failed"}, {shard: 0})
    assert without != first, "another request"


def test_the_same_request_goes_on_after_an_interruption(job: Job) -> None:
    """A shard that was done before the interruption is not done again, though its input failed again."""
    first, second = "0000-000000", "0000-000001"
    note, retry = request(job.store, {"corrupt"}, wanted(job, "corrupt").revisions)
    run_local(job.settings, [first], on_result=lambda _: None, retry=retry)
    assert unfinished(job.store)[0].left(Ledger(job.store)) == [second]
    again, rest = request(job.store, {"corrupt"}, wanted(job, "corrupt").revisions)
    assert again == note
    assert set(rest.revisions) == {second}
    do(job, rest)
    job.store.delete([note])
    _, afresh = request(job.store, {"corrupt"}, wanted(job, "corrupt").revisions)
    assert afresh.revisions == {first: 1, second: 1}
    _, other = request(job.store, {"failed"}, {})
    assert other.revisions == {}


def dying_store(monkeypatch: pytest.MonkeyPatch, place: int, when: str, prefix: str) -> list[str]:
    """Let the process die before or after its `place`-th write below the output; returns what it wrote."""
    written: list[str] = []

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Store, *arguments: Any) -> Any:
            if self.uri != prefix:
                return method(self, *arguments)
            written.append(name)
            number = len(written)
            if number == place and when == "before":
                raise Died
            result = method(self, *arguments)
            if number >= place:
                raise Died
            return result

        return call

    for name in WRITES:
        monkeypatch.setattr(Store, name, wrap(name, getattr(Store, name)))
    return written


@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_every_write_of_a_retry(
    when: str, folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(place: int) -> tuple[Job, list[str]]:
        mend(folder)
        (folder / CUT).write_bytes(b"")
        settings = settings_of(str(folder / "a"), weights, str(tmp_path / f"{when}{place}"))
        job = start(settings)
        run_local(settings, job.pending, on_result=lambda _: None)
        before = others(job.run, "cut.jpg")
        mend(folder)
        with monkeypatch.context() as patch:
            written = dying_store(patch, place, when, job.store.uri)
            try:
                do(job, wanted(job, "corrupt"))
            except Died:
                assert len(written) >= place
        run = job.run
        assert others(run, "cut.jpg") == before, "whatever stands rules, and is there"
        return job, written

    _, steps = die(10**6)
    assert steps[:8] == ["put", "put", "put", "create", "delete", "copy", "copy", "delete"]
    for place in range(1, 9):
        job, written = die(place)
        committed = place > 4 or (place == 4 and when == "after")
        (row,) = rows_of(job.run, "cut.jpg")[0]
        assert row["status"] == ("ok" if committed else "corrupt"), written
        Ledger(job.store).repair()
        do(job, wanted(job, "corrupt"))
        assert verify(job.store, full=True).outcome is Outcome.GOOD
        assert verify(job.store).statuses == {"ok": 4}
        assert [commit.revision for commit in job.run.commits] == [1]
