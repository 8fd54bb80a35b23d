"""Three incremental runs over a growing bucket, and what becomes of an object that changes between them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from jobs.check import load_text
from jobs.errors import Incomplete
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from pipeline import tables
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.storage import Store
from pipeline.verify import verify
from tests.tiny import encoded, picture

GROWTH = 4
"""Whole shards: then a batch holds the same images in one run as in three, and scores are equal."""


def job(bucket: str, weights: Path, **inputs: object) -> SegmentSpec:
    spec = {
        "kind": "segment",
        "name": "growing",
        "input": {"uri": f"{bucket}/photos", "mode": "new", **inputs},
        "model": {"weights": str(weights), "score_threshold": 0.5, "max_instances": 10},
        "output": {"uri": f"{bucket}/masks"},
        "shards": {"images": 2},
    }
    return load_text(json.dumps(spec), "growing.yaml")


def put(bucket: str, first: int, count: int, shift: int = 0) -> None:
    store = Store.open(f"{bucket}/photos")
    for number in range(first, first + count):
        store.put(f"{number:03}.png", encoded(picture(number + shift)))


def test_three_runs_over_a_growing_bucket(s3_bucket: str, weights: Path) -> None:
    spec = job(s3_bucket, weights)
    for run in range(3):
        put(s3_bucket, run * GROWTH, GROWTH)
        accounts = run_job(spec, local=True)
        done = tables.open(f"{s3_bucket}/masks")
        names = done.images(["image_id"])["image_id"].to_pylist()
        assert Counter(names) == {f"{n:03}.png": 1 for n in range((run + 1) * GROWTH)}, "each image once"
        assert accounts["images"] == len(names)
        assert accounts["run"]["images"] == GROWTH, "only what is new was done"
        assert accounts["instances"] == done.instances().num_rows
        assert accounts["shards"] == (run + 1) * 2
    store = Store.open(f"{s3_bucket}/masks")
    assert [plan.images for plan in load_plans(store)] == [GROWTH] * 3
    before = sorted((info.key, info.etag) for info in store.list())
    again = run_job(spec, local=True)
    assert again["images"] == 3 * GROWTH
    assert sorted((info.key, info.etag) for info in store.list()) == before, "nothing new, nothing done"
    # The same rows as of one run over everything.
    whole = job(s3_bucket, weights).model_copy(
        update={"output": spec.output.model_copy(update={"uri": f"{s3_bucket}/whole"})}
    )
    run_job(whole, local=True)
    one, three = tables.open(f"{s3_bucket}/whole"), tables.open(f"{s3_bucket}/masks")
    assert tables.canonical(one.instances()).equals(tables.canonical(three.instances()))
    assert not verify(store, sample=50).findings


def test_an_object_that_changes_is_done_again_as_another_image(s3_bucket: str, weights: Path) -> None:
    spec = job(s3_bucket, weights)
    put(s3_bucket, 0, 3)
    run_job(spec, local=True)
    put(s3_bucket, 1, 1, shift=100)
    accounts = run_job(spec, local=True)
    rows = tables.open(f"{s3_bucket}/masks").images(["image_id", "uri", "etag", "status"]).to_pylist()
    versions = [row for row in rows if row["uri"].endswith("/001.png")]
    assert [row["image_id"].partition("@")[0] for row in versions] == ["001.png", "001.png"]
    assert len({row["image_id"] for row in versions}) == len({row["etag"] for row in versions}) == 2
    assert (accounts["images"], accounts["run"]["images"]) == (4, 1)


def test_a_run_that_stops_half_way_goes_on_beside_what_is_new(
    s3_bucket: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(s3_bucket, weights)
    put(s3_bucket, 0, 4)
    run_job(spec, local=True)
    put(s3_bucket, 4, 4)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.driving.run_local", lambda *arguments, **options: None)
        with pytest.raises(Incomplete):
            run_job(spec, local=True)
    store = Store.open(f"{s3_bucket}/masks")
    assert len(Ledger(store).pending(load_plans(store))) == 2
    put(s3_bucket, 8, 2)
    accounts = run_job(spec, local=True)
    assert (accounts["images"], accounts["run"]["images"]) == (10, 6)
    assert len(load_plans(store)) == 3


def test_all_keeps_to_what_the_first_run_listed(s3_bucket: str, weights: Path) -> None:
    spec = job(s3_bucket, weights, mode="all")
    put(s3_bucket, 0, 2)
    run_job(spec, local=True)
    put(s3_bucket, 2, 2)
    assert run_job(spec, local=True)["images"] == 2
