"""One shard from its start to its commit, with the real model: what becomes of good, bad and odd inputs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

import condinst
from condinst.model import Begun
from condinst.preprocess import Prepared
from pipeline import progress, tables
from pipeline.decode import DecodeLimits
from pipeline.engine import run_local
from pipeline.manifest import InputSource
from pipeline.results import ShardResult
from pipeline.steps import STEPS
from pipeline.storage import Store
from pipeline.weights import ModelChanged
from pipeline.worker import Worker
from tests.job import Job, settings_of, start
from tests.tiny import CLASSES, encoded, picture, pictures, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def job_of(tmp_path: Path, weights: Path) -> Callable[..., Job]:
    numbers = iter(range(1000))

    def make(source: Any, shard_size: int = 4, **changes: Any) -> Job:
        return start(
            settings_of(source, weights, str(tmp_path / f"out{next(numbers)}"), **changes), shard_size
        )

    return make


def do(job: Job) -> list[ShardResult]:
    results: list[ShardResult] = []
    run_local(job.settings, job.pending, on_result=results.append)
    assert [result.error for result in results] == [None] * len(results)
    return results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pictures(tmp_path / "in")


def test_rows_are_what_the_model_says_of_each_image(
    folder: Path, weights: Path, job_of: Callable[..., Job]
) -> None:
    job = job_of(str(folder))
    do(job)
    model = condinst.load(weights)
    detect = model.config.detect.model_copy(update={"score_threshold": 0.5})
    for row in job.run.images().to_pylist():
        if row["status"] == "corrupt":
            continue
        number = int(row["image_id"][2:5])
        image = picture(number, row["height"], row["width"])
        (expected,) = model.predict([image], detect)
        kept = expected.masks.area > 0
        found = [r for r in job.run.instances().to_pylist() if r["image_id"] == row["image_id"]]
        assert row["instances"] == len(found) == kept.sum()
        assert [r["instance_id"] for r in found] == list(range(len(found)))
        np.testing.assert_allclose([r["score"] for r in found], expected.scores[kept], atol=1e-4)
        assert [CLASSES.index(r["category"]) for r in found] == expected.classes[kept].tolist()
        assert [r["category_id"] - 1 for r in found] == expected.classes[kept].tolist()
        boxes = [[r["bbox"][k] for k in ("x", "y", "width", "height")] for r in found]
        corners = expected.boxes[kept]
        np.testing.assert_allclose(
            boxes, np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), atol=1e-2
        )


def test_images_at_the_limit_of_instances_are_marked_and_counted(
    folder: Path, job_of: Callable[..., Job]
) -> None:
    free = job_of(str(folder), detect={"score_threshold": 0.5, "max_instances": 10_000})
    do(free)
    counts = free.run.images()["instances"].to_pylist()
    limit = sorted(counts)[-4] - 1
    assert limit > 0
    job = job_of(str(folder), detect={"score_threshold": 0.5, "max_instances": limit})
    do(job)
    rows = job.run.images().to_pylist()
    assert all(row["capped"] == 1 for row, count in zip(rows, counts, strict=True) if count >= limit)
    assert {row["capped"] for row in rows if row["status"] not in ("ok", "empty")} == {0}
    assert set(free.run.images()["capped"].to_pylist()) == {0}
    assert 4 <= sum(row["capped"] for row in rows) == sum(commit.capped for commit in job.run.commits)


def test_masks_keep_their_promises(folder: Path, job_of: Callable[..., Job]) -> None:
    job = job_of(str(folder))
    do(job)
    images = {row["image_id"]: row for row in job.run.images().to_pylist()}
    rows = job.run.instances().to_pylist()
    assert len(rows) > 50
    for row in rows:
        image, mask = images[row["image_id"]], row["mask"]
        height, width = image["height"], image["width"]
        assert mask["x"] >= 0 <= mask["y"]
        assert mask["x"] + mask["width"] <= width
        assert mask["y"] + mask["height"] <= height
        crop = coco.decode({"size": [mask["height"], mask["width"]], "counts": mask["counts"]})
        assert crop.sum() == row["area"] > 0
        frame = np.zeros((height, width), dtype=np.uint8)
        frame[mask["y"] : mask["y"] + mask["height"], mask["x"] : mask["x"] + mask["width"]] = crop
        edge = frame[0].any() or frame[-1].any() or frame[:, 0].any() or frame[:, -1].any()
        assert row["truncated"] == edge
        assert (coco.decode(tables.full_frame_rle(row, height, width)) == frame).all()


def test_every_input_has_one_row_in_manifest_order(folder: Path, job_of: Callable[..., Job]) -> None:
    (folder / "b" / "big.png").write_bytes(encoded(picture(99, 200, 200)))
    (folder / "b" / "heavy.png").write_bytes(encoded(picture(98)) + b"\0" * 200_000)
    (folder / "b" / "words.png").write_text("no image")
    job = job_of(str(folder), limits=DecodeLimits(pixels=30_000, bytes=150_000))
    (folder / "a" / "001.png").unlink()
    do(job)
    table = job.run.images()
    ids = table["image_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == len(set(ids)) == job.plan.images == 17
    status = dict(zip(ids, table["status"].to_pylist(), strict=True))
    error = dict(zip(ids, table["error"].to_pylist(), strict=True))
    assert status["a/cut.jpg"] == status["b/nothing.png"] == "corrupt"
    assert status["b/big.png"] == status["b/heavy.png"] == "too_large"
    assert status["a/001.png"] == "missing"
    assert status["b/words.png"] == "unsupported"
    bad = [name for name in ids if error[name]]
    assert sorted(bad) == sorted(name for name in ids if status[name] not in ("ok", "empty"))
    assert sum(sum(commit.counts.values()) for commit in job.run.commits) == 17
    assert {row["instances"] for row in table.to_pylist() if row["error"]} == {0}


def test_a_shard_of_bad_inputs_only_has_both_files(tmp_path: Path, job_of: Callable[..., Job]) -> None:
    source = tmp_path / "bad"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.jpg").write_bytes(encoded(picture(number), "JPEG")[:900])
    job = job_of(str(source))
    (result,) = do(job)
    assert (result.counts, result.instances, result.first, result.busy) == ({"corrupt": 3}, 0, None, 0.0)
    assert job.run.instances().num_rows == 0
    assert job.store.head("instances/0000-000000.parquet").size > 0
    assert job.run.images(columns=["status"]).to_pylist() == [{"status": "corrupt"}] * 3


@pytest.mark.parametrize("prefetch", [1, 2, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_what_arrives_first(
    folder: Path, job_of: Callable[..., Job], prefetch: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow fetches at random, another look-ahead, one or two shards in flight: the same rows, to the bit."""
    undisturbed = job_of(str(folder))
    do(undisturbed)
    from pipeline.inputs import Inputs

    fetch, rng = Inputs.fetch, np.random.default_rng(prefetch)

    def slow(self: Inputs, *arguments: Any) -> Any:
        threading.Event().wait(float(rng.uniform(0, 0.02)))
        return fetch(self, *arguments)

    monkeypatch.setattr(Inputs, "fetch", slow)
    job = job_of(str(folder), prefetch_images=prefetch, prefetch_bytes=100_000)
    one = Worker(job.settings)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one.process, job.pending))
    finally:
        one.close()
    for mine, theirs in zip(job.rows(), undisturbed.rows(), strict=True):
        assert mine.equals(theirs)


def test_batches_are_of_one_shape_in_manifest_order(
    folder: Path, job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, int]]] = []
    begin = condinst.CondInst.begin

    def watched(self: Any, batch: Sequence[Prepared], *more: Any) -> Begun:
        seen.append([item.padded for item in batch])
        return begin(self, batch, *more)

    monkeypatch.setattr(condinst.CondInst, "begin", watched)
    do(job_of(str(folder), shard_size=100))
    assert all(len(set(batch)) == 1 and len(batch) <= 3 for batch in seen)
    assert sum(len(batch) for batch in seen) == 12
    assert len(seen) < 7


def test_an_image_that_the_model_fails_on_costs_itself(
    folder: Path, job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = job_of(str(folder))
    do(undisturbed)
    victim = picture(5, 80, 160)
    begin = condinst.CondInst.begin

    def picky(self: Any, batch: Sequence[Prepared], *more: Any) -> Begun:
        if any(np.array_equal(item.pixels, victim) for item in batch):
            raise RuntimeError("out of luck at 0x7f00\nand a second line")
        return begin(self, batch, *more)

    monkeypatch.setattr(condinst.CondInst, "begin", picky)
    job = job_of(str(folder))
    do(job)
    rows = {row["image_id"]: row for row in job.run.images().to_pylist()}
    failed = [row for row in rows.values() if row["status"] == "failed"]
    assert [(row["image_id"], row["error"]) for row in failed] == [("a/005.png", "RuntimeError: out of luck")]
    for row in undisturbed.run.images().to_pylist():
        if row["image_id"] != "a/005.png":
            mine = rows[row["image_id"]]
            assert (mine["status"], mine["instances"]) == (row["status"], row["instances"])


def test_a_batch_that_finds_no_memory_before_the_model_costs_nothing(
    folder: Path, job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = job_of(str(folder))
    do(undisturbed)

    def full(self: Any, batch: Sequence[Prepared]) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(condinst.CondInst, "stacked", full)
    job = job_of(str(folder))
    do(job)
    for mine, theirs in zip(job.rows(), undisturbed.rows(), strict=True):
        assert mine.equals(theirs)


def test_only_the_classes_asked_for_have_rows(folder: Path, job_of: Callable[..., Job]) -> None:
    asked = {"score_threshold": 0.5, "max_instances": 1000}
    whole = job_of(str(folder), detect=asked)
    part = job_of(str(folder), detect=asked | {"classes": ("stone",)})
    do(whole)
    do(part)
    expected = [row for row in whole.run.instances().to_pylist() if row["category"] == "stone"]
    found = part.run.instances().to_pylist()
    assert [r["mask"] for r in found] == [r["mask"] for r in expected]
    assert {r["category"] for r in found} == {"stone"}
    firsts = [r["instance_id"] for r in found if r["image_id"] == found[0]["image_id"]]
    assert firsts == list(range(len(firsts)))
    with pytest.raises(ValueError, match="no class 'shrub'"):
        Worker(job_of(str(folder), detect={"classes": ("shrub",)}).settings)


def test_columns_of_the_users_manifest_pass_through(tmp_path: Path, job_of: Callable[..., Job]) -> None:
    source = pictures(tmp_path / "in")
    lines = ["uri,field,weight", "a/001.png,north,1.5", "b/000.png,south,", "b/nowhere.png,,3"]
    (source / "list.csv").write_text("\n".join(lines))
    manifest = InputSource(str(source / "list.csv"), manifest=True, columns=("field", "weight"))
    job = job_of(manifest, shard_size=2)
    do(job)
    table = job.run.images(columns=["image_id", "status", "field", "weight"])
    assert table.to_pylist() == [
        {"image_id": "a/001.png", "status": "ok", "field": "north", "weight": "1.5"},
        {"image_id": "b/000.png", "status": "ok", "field": "south", "weight": None},
        {"image_id": "b/nowhere.png", "status": "missing", "field": None, "weight": "3"},
    ]
    assert job.run.images().column_names[-2:] == ["field", "weight"]


def test_work_is_accounted_for(folder: Path, job_of: Callable[..., Job]) -> None:
    job = job_of(str(folder))
    results = do(job)
    for commit, result in zip(job.run.commits, sorted(results, key=lambda r: r.shard), strict=True):
        work = commit.work
        assert result.won
        assert (result.counts, result.instances) == (commit.counts, commit.instances)
        assert commit.instances == commit.files["instances"].rows == sum(commit.classes.values())
        assert commit.files["images"].rows == sum(commit.counts.values())
        assert work.first is not None
        assert work.last is not None
        assert 0 < work.busy <= work.last - work.first + 1e-6
        assert commit.fingerprint == job.settings.fingerprint()
        assert result.seconds["commit"] > 0 == work.seconds["commit"]
        assert ShardResult.from_json(result.to_json()) == result
    assert len({commit.work.worker for commit in job.run.commits}) == 1


def test_two_workers_on_one_shard_commit_it_once(folder: Path, job_of: Callable[..., Job]) -> None:
    job = job_of(str(folder), shard_size=100)
    workers = [Worker(job.settings) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda one: one.process("0000-000000"), workers))
    finally:
        for one in workers:
            one.close()
    assert sorted(result.won for result in results) == [False, True]
    winner = next(result for result in results if result.won)
    assert set(job.run.images()["attempt"].to_pylist()) == {winner.attempt}
    assert job.run.images().num_rows == job.plan.images
    assert not list(job.store.list("_attempts/"))


def test_weights_other_than_planned_are_refused(
    folder: Path, tmp_path: Path, job_of: Callable[..., Job]
) -> None:
    job = job_of(str(folder), weights=str(tiny_weights(tmp_path, seed=7)))
    with pytest.raises(ModelChanged, match="planned with"):
        Worker(job.settings)


def test_weights_are_found_by_uri(folder: Path, weights: Path, job_of: Callable[..., Job]) -> None:
    by_path, by_uri = job_of(str(folder)), job_of(str(folder), weights=f"file://{weights}")
    do(by_path)
    do(by_uri)
    assert by_path.rows()[1].equals(by_uri.rows()[1])


def test_a_worker_gives_signs_of_life_and_takes_them_away(
    folder: Path, job_of: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    put, seen = Store.put, []

    def watched(self: Store, key: str, data: bytes) -> None:
        if key.startswith("_progress/"):
            seen.append((key, json.loads(data)))
        put(self, key, data)

    monkeypatch.setattr(Store, "put", watched)
    job = job_of(str(folder))
    do(job)
    shown = [shard for _, sign in seen for shard in sign["shards"].values()]
    assert {tuple(shard) for shard in shown} == {
        ("since", "images", "done", "step", "step_since", "decoding")
    }
    assert {shard["step"] for shard in shown} <= {None, *STEPS}
    assert {key for key, _ in seen} == {f"_progress/{sign['worker']}.json" for _, sign in seen}
    assert list(job.store.list("_progress/")) == []


def test_closing_ends_every_thread(folder: Path, job_of: Callable[..., Job]) -> None:
    before = set(threading.enumerate())
    do(job_of(str(folder)))
    assert set(threading.enumerate()) <= before


@pytest.fixture
def failing_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from pipeline.inputs import Inputs
    from pipeline.storage import Unavailable

    def unavailable(*_: Any) -> Any:
        raise Unavailable("s3://images: keeps answering 503")

    monkeypatch.setattr(Inputs, "fetch", unavailable)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("failing_store")
def test_an_input_store_that_is_down_costs_no_input_its_row(folder: Path, job_of: Callable[..., Job]) -> None:
    job = job_of(str(folder))
    results: list[ShardResult] = []
    run_local(job.settings, job.pending, on_result=results.append)
    assert {result.error for result in results} == {"Unavailable: s3://images: keeps answering 503"}
    assert job.pending == job.plan.shard_ids()
    assert not list(job.store.list("_attempts/")), "an error is not the death of a worker"
