"""Shards that attempts died at: the same rows for all but the culprit, whoever runs them, however often."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import condinst
from condinst.model import Begun
from condinst.preprocess import Prepared
from pipeline import care, poison, tables
from pipeline.care import GIVEN_UP_AFTER, KILLED_IN_MODEL, Carer, Poisonous, Quiet, ShardGivenUp
from pipeline.decode import DecodeLimits, decode
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.poison import Note, at_key, put_culprit
from pipeline.records import ImageRef
from pipeline.storage import Store, Unavailable
from pipeline.verify import verify
from pipeline.worker import Worker
from tests.job import Job, settings_of, start
from tests.poisons import plant, poisoned
from tests.tiny import encoded, picture, tiny_weights

FIRST, SECOND = "0000-000000", "0000-000001"
NAMES = [f"{number:02d}.png" for number in range(8)]
DEADLY = "03.png"
"""Where poison is planted it kills who decodes it; elsewhere it is corrupt."""
GOOD = [name for name in NAMES if name != DEADLY]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images: two shards, each of a batch of three and what is left."""
    path = tmp_path_factory.mktemp("images")
    for number, name in enumerate(NAMES):
        (path / name).write_bytes(encoded(picture(number, 64, 96)))
    (path / DEADLY).write_bytes(poisoned("segv"))
    return path


@pytest.fixture(scope="module")
def undisturbed(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = start(settings_of(str(folder), weights, str(tmp_path_factory.mktemp("undisturbed") / "out")))
    with worker(job) as one:
        for shard in job.pending:
            one.process(shard)
    assert job.run.images()["status"].to_pylist().count("corrupt") == 1
    return job


@pytest.fixture
def job(folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose images are poison for the processes that decode, and with patience for nothing."""
    monkeypatch.syspath_prepend(plant(tmp_path))
    monkeypatch.setattr(poison, "STIR", 0.1)
    return start(settings_of(str(folder), weights, str(tmp_path / "out")))


@contextmanager
def worker(job: Job) -> Iterator[Worker]:
    made = Worker(job.settings)
    try:
        yield made
    finally:
        made.close()


def process(job: Job, *shards: str) -> None:
    with worker(job) as one, ThreadPoolExecutor(2) as pool:
        assert all(result.won for result in pool.map(one.process, shards))


def die(job: Job, shard: str, *inside: str) -> None:
    """Leave what an attempt leaves whose process died, with these images inside the model if any."""
    attempt = Ledger(job.store).begin(shard, "gone")
    if inside:
        job.store.put(at_key(shard, attempt), Note(attempt, "gone", inside, time.time()).to_json())


def rows(job: Job, shard: str, without: str | None = None) -> list[Any]:
    """A shard's rows of both tables in the form in which equal ones are equal, but for one input's."""
    found = []
    for table in (job.run.images(), job.run.instances()):
        ids = NAMES[:4] if shard == FIRST else NAMES[4:]
        canonical = tables.canonical(table).to_pylist()
        found.append([row for row in canonical if row["image_id"] in set(ids) - {without}])
    assert len(found[0]) in (3, 4)
    return found


def row(job: Job, name: str) -> dict[str, Any]:
    (found,) = (row for row in job.run.images().to_pylist() if row["image_id"] == name)
    return found


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch, job: Job) -> list[tuple[int, list[str], list[list[str]]]]:
    """Of each batch in the model: its size, the shards that live attempts noted then, and the images."""
    seen = []
    begin = condinst.CondInst.begin

    def watched(self: Any, batch: Sequence[Prepared], *more: Any) -> Begun:
        keys = [info.key for info in job.store.list("_attempts/") if info.key.endswith("/at")]
        notes = [(key.split("/")[1], json.loads(job.store.get(key))) for key in keys]
        alive = [(shard, note["images"]) for shard, note in notes if note["worker"] != "gone"]
        seen.append((len(batch), [shard for shard, _ in alive], [images for _, images in alive]))
        return begin(self, batch, *more)

    monkeypatch.setattr(condinst.CondInst, "begin", watched)
    return seen


def test_an_image_that_kills_its_decoder_costs_itself(job: Job, undisturbed: Job) -> None:
    die(job, FIRST)
    die(job, FIRST)
    process(job, FIRST, SECOND)
    assert row(job, DEADLY)["status"] == "failed"
    assert row(job, DEADLY)["error"] == "decoding killed its process (SIGSEGV)"
    assert rows(job, FIRST, without=DEADLY) == rows(undisturbed, FIRST, without=DEADLY)
    assert rows(job, SECOND) == rows(undisturbed, SECOND)
    assert [info.key for info in job.store.list("_poison/")] == [poison.poison_key(FIRST, DEADLY)]
    assert verify(job.store).findings == []


def test_an_image_that_never_decodes_costs_itself(
    job: Job, tmp_path: Path, undisturbed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Inputs.fetch

    def hanging(self: Inputs, ref: ImageRef, limit: int) -> Any:
        data, etag = fetch(self, ref, limit)
        return (poisoned("hang holding the GIL") if ref.image_id == DEADLY else data), etag

    monkeypatch.setattr(Inputs, "fetch", hanging)
    slow = replace(job, settings=replace(job.settings, limits=DecodeLimits(seconds=5)))
    die(slow, FIRST)
    die(slow, FIRST)
    process(slow, FIRST, SECOND)
    assert row(slow, DEADLY)["error"] == "decoding did not end within 5 s"
    assert rows(slow, FIRST, without=DEADLY) == rows(undisturbed, FIRST, without=DEADLY)


def test_a_culprit_has_the_same_row_in_every_later_attempt_untouched(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(job, FIRST)
    die(job, FIRST)
    process(job, FIRST, SECOND)
    before = tables.canonical(job.run.images()), tables.canonical(job.run.instances())
    for info in list(job.store.list()):
        if info.key.split("/")[0] in ("commits", "images", "instances", "_attempts"):
            job.store.delete([info.key])
    fetched = []
    fetch = Inputs.fetch

    def watched(self: Inputs, ref: ImageRef, limit: int) -> Any:
        fetched.append(ref.image_id)
        return fetch(self, ref, limit)

    monkeypatch.setattr(Inputs, "fetch", watched)
    process(job, FIRST, SECOND)
    assert sorted(fetched) == GOOD
    for mine, theirs in zip(job.rows(), before, strict=True):
        assert mine.equals(theirs)


def test_the_innocent_have_their_rows_however_carefully_they_are_run(
    job: Job, undisturbed: Job, entered: list[Any]
) -> None:
    for _ in range(3):
        die(job, SECOND)
    process(job, SECOND)
    assert rows(job, SECOND) == rows(undisturbed, SECOND)
    assert [size for size, _, _ in entered] == [3, 1]
    assert [images for _, _, images in entered] == [[NAMES[4:7]], [NAMES[7:]]], "noted while inside"
    left = [info.key for info in job.store.list("_attempts/")]
    assert all(key.endswith("/started") for key in left)
    assert len(left) == 3, "of its own attempt nothing"


def test_nothing_is_noted_until_attempts_died(job: Job, entered: list[Any]) -> None:
    die(job, SECOND)
    process(job, SECOND)
    assert [notes for _, notes, _ in entered] == [[], []]


def test_of_two_careful_shards_only_the_one_inside_the_model_is_noted(job: Job, entered: list[Any]) -> None:
    for shard in (FIRST, SECOND, FIRST, SECOND):
        die(job, shard)
    process(job, FIRST, SECOND)
    assert len(entered) == 3
    for size, shards, images in entered:
        assert len(shards) == 1
        assert [len(names) for names in images] == [size]
        assert set(images[0]) <= set(NAMES[:4] if shards == [FIRST] else NAMES[4:])


def test_a_batch_that_an_attempt_died_with_is_tried_image_by_image_for_the_same_rows(
    job: Job, undisturbed: Job, entered: list[Any]
) -> None:
    die(job, SECOND)
    die(job, SECOND)
    die(job, SECOND, *NAMES[4:7])
    process(job, SECOND)
    assert [images for _, _, (images,) in entered] == [[name] for name in NAMES[4:7]] + [
        NAMES[4:7],
        NAMES[7:],
    ]
    assert rows(job, SECOND) == rows(undisturbed, SECOND)
    assert [commit.work.splits for commit in job.run.commits] == [0]


def test_a_batch_that_dies_as_a_whole_is_run_image_by_image(job: Job, entered: list[Any]) -> None:
    for _ in range(3):
        die(job, SECOND, *NAMES[4:7])
    process(job, SECOND)
    assert [images for _, _, (images,) in entered] == [[name] for name in NAMES[4:]]
    assert [commit.work.splits for commit in job.run.commits] == [1]
    assert {row(job, name)["status"] for name in NAMES[4:]} <= {"ok", "empty"}


def test_an_image_that_was_alone_inside_the_model_in_two_deaths_is_the_culprit(
    job: Job, entered: list[Any]
) -> None:
    die(job, SECOND)
    die(job, SECOND)
    die(job, SECOND, *NAMES[4:7])
    die(job, SECOND, NAMES[5])
    die(job, SECOND, NAMES[5])
    process(job, SECOND)
    assert (row(job, NAMES[5])["status"], row(job, NAMES[5])["error"]) == ("failed", KILLED_IN_MODEL)
    assert NAMES[5] not in {name for _, _, (images,) in entered for name in images}
    assert {row(job, name)["status"] for name in NAMES[4:] if name != NAMES[5]} <= {"ok", "empty"}


def test_a_shard_that_dies_of_nothing_known_is_given_up(job: Job) -> None:
    for _ in range(GIVEN_UP_AFTER):
        die(job, SECOND)
    with worker(job) as one:
        with pytest.raises(ShardGivenUp, match=rf"^12 attempts at shard {SECOND} began and did not end"):
            one.process(SECOND)
        assert len(list(job.store.list("_attempts/"))) == GIVEN_UP_AFTER
        put_culprit(job.store, SECOND, "x", NAMES[4], "it crashed")
        one.process(SECOND)  # its deaths are accounted for
    assert row_status(job) == ["failed", "ok", "ok", "ok"]


def row_status(job: Job) -> list[str]:
    images = tables.canonical(job.run.images()).to_pylist()
    return ["ok" if row["status"] == "empty" else row["status"] for row in images]


def test_a_store_that_fails_while_a_note_is_put_costs_no_image(
    job: Job, undisturbed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(job, SECOND)
    die(job, SECOND)
    put = Store.put

    def failing(self: Store, key: str, data: bytes) -> None:
        if key.endswith("/at"):
            raise Unavailable("the store is away")
        put(self, key, data)

    with worker(job) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "put", failing)
            with pytest.raises(Unavailable):
                one.process(SECOND)
        assert len(list(job.store.list("_attempts/"))) == 2, "an error is not a death"
        one.process(SECOND)
    assert rows(job, SECOND) == rows(undisturbed, SECOND)


@pytest.mark.parametrize("what", ["the process cannot start", "the verdict cannot be put"])
def test_no_image_is_failed_for_what_is_not_its_fault(
    job: Job, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(job, FIRST)
    die(job, FIRST)
    create = Store.create

    def failing(self: Store, key: str, data: bytes) -> bool:
        if key.startswith("_poison/"):
            raise Unavailable("the store is away")
        return create(self, key, data)

    with worker(job) as one:
        with monkeypatch.context() as patch:
            if what == "the verdict cannot be put":
                patch.setattr(Store, "create", failing)
            else:
                (tmp_path / "broken").mkdir()
                (tmp_path / "broken" / "sitecustomize.py").write_text("import os; os._exit(7)")
                patch.syspath_prepend(tmp_path / "broken")
            with pytest.raises(Exception, match=r"did not start|the store is away"):
                one.process(FIRST)
        assert FIRST in job.pending
        one.process(FIRST)
    assert row(job, DEADLY)["error"] == "decoding killed its process (SIGSEGV)"
    assert {row(job, name)["status"] for name in NAMES[:3]} <= {"ok", "empty"}


def decoding_processes() -> list[str]:
    """Processes of this one's that decode."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and b"pipeline.childdecode" in (folder / "cmdline").read_bytes():
                found.append(folder.name)
    return found


def test_beside_a_careful_shard_the_others_are_decoded_elsewhere(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third shard's deaths made it careful; no other may end the process while its images are inside."""
    seen = []

    def here(data: bytes, *arguments: Any) -> Any:
        seen.append(data)
        return decode(data, *arguments)

    monkeypatch.setattr(care, "decode", here)
    carer, ledger = Carer(job.store, "worker", DecodeLimits()), Ledger(job.store)
    good, deadly = encoded(picture(0)), poisoned("segv")
    die(job, SECOND)
    die(job, SECOND)
    with carer.care(FIRST, ledger.begin(FIRST, "worker")) as usual:
        usual.decode(ImageRef("a.png", "a.png", 0), good)
        with carer.care(SECOND, ledger.begin(SECOND, "worker")):
            with pytest.raises(Poisonous, match="SIGSEGV"):
                usual.decode(ImageRef(DEADLY, DEADLY, 0), deadly)
            usual.decode(ImageRef("b.png", "b.png", 0), good)
        assert decoding_processes()
        usual.decode(ImageRef("c.png", "c.png", 0), good)
    assert decoding_processes() == []
    assert seen == [good, good], "before and after"
    assert [info.key for info in job.store.list("_poison/")] == [poison.poison_key(FIRST, DEADLY)]


def test_a_careful_shard_begins_when_nothing_is_decoded_here() -> None:
    quiet, order = Quiet(), []

    def be_careful() -> None:
        with quiet.wanted():
            order.append("careful")

    thread = threading.Thread(target=be_careful)
    with quiet.here() as may:
        assert may
        thread.start()
        while not quiet._careful:
            time.sleep(0.01)
        with quiet.here() as another:
            assert not another
        order.append("decoded")
    thread.join()
    assert order == ["decoded", "careful"]


def test_a_careful_shard_ends_its_processes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    die(job, SECOND)
    die(job, SECOND)
    seen = []
    begin = condinst.CondInst.begin

    def watched(self: Any, batch: Sequence[Prepared], *more: Any) -> Begun:
        seen.append(len(decoding_processes()))
        return begin(self, batch, *more)

    monkeypatch.setattr(condinst.CondInst, "begin", watched)
    process(job, SECOND)
    assert min(seen) > 0
    assert decoding_processes() == []
