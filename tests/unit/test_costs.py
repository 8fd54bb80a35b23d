"""What `plan` says of time and money, by what a run before it took."""

from __future__ import annotations

import heapq
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.check import load_text
from jobs.errors import JobError
from jobs.estimate import Headers, Todo, estimate, estimate_tiled
from jobs.preview import preview
from jobs.rates import Rate, TiledRate, measured_tiled
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from pipeline.nouns import many
from pipeline.storage import Store
from tests.rasters import terrain, write_raster
from tests.tiny import tiny_weights


def test_workers_share_whole_shards_and_gpus_cost() -> None:
    rate = Rate(seconds_per_megapixel=2.0, seconds_per_image=1.0, images=10, start=10.0)
    headers = Headers(4, 3.0, 5.0, (("bad", "corrupt: it is"),))
    cost = estimate(rate, headers, Todo(1000, 10, 4), gpus=1, price=1.5)
    # Ten shards on four workers: the last to end has three. A quarter of the images is not read.
    assert cost.seconds == pytest.approx(10 + 1000 * 2.0 * 3.0 * 0.75 * 0.3)
    assert cost.gpu_hours == pytest.approx(cost.seconds * 4 / 3600)
    assert cost.gpu_cost == pytest.approx(cost.gpu_hours * 1.5)
    nothing = estimate(rate, headers, Todo(0, 0, 1), gpus=1, price=1.5)
    assert (nothing.seconds, nothing.gpu_cost, nothing.writes, nothing.reads) == (0, 0, 0, 0)


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 20))
def test_the_last_worker_to_end_is_found_without_handing_out_shards(
    images: int, size: int, workers: int
) -> None:
    shards = [min(size, images - start) for start in range(0, images, size)]
    free = [0] * workers
    for shard in shards:
        heapq.heappush(free, heapq.heappop(free) + shard)
    assert Todo(images, len(shards), workers, size).busiest == max(free)


def test_both_stages_of_a_tiled_job_cost_time_and_the_first_alone_gpus() -> None:
    windows = Rate(seconds_per_megapixel=4.0, seconds_per_image=1.0, images=10, start=20.0)
    rate = TiledRate(windows, stitching=0.1)
    todo = Todo(1000, 10, 5, 100), Todo(1000, 4, 2)
    cost = estimate_tiled(rate, 0.5, *todo, gpus=1, price=2.0)
    assert cost.seconds == pytest.approx(20 + 4 * 0.5 * 200 + 0.1 * 500)
    assert cost.gpu_hours == pytest.approx((20 + 400) * 5 / 3600)
    assert cost.gpu_cost == pytest.approx(2 * cost.gpu_hours)
    stitch = estimate_tiled(rate, 0.5, Todo(0, 0, 1, 100), todo[1], gpus=1, price=2.0)
    assert stitch.seconds == pytest.approx(20 + 50)
    assert stitch.gpu_hours == 0


def tiled_spec(folder: Path, output: str, mode: str = "all") -> SegmentSpec:
    spec = {
        "kind": "segment",
        "name": "tiles",
        "input": {"uri": str(folder / "in"), "mode": mode},
        "model": {"weights": str(folder / "tiny-0.safetensors"), "score_threshold": 0.5, "max_instances": 10},
        "tiling": {"size": 96, "overlap": 32},
        "shards": {"images": 4},
        "output": {"uri": str(folder / output)},
    }
    return load_text(json.dumps(spec), "tiles.yaml")


def said(spec: SegmentSpec, like: str | None = None) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    preview(spec, console, like=like)
    return console.export_text()


def test_workers_beyond_this_machines_cores_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipeline.cluster._initialized", lambda: False)  # other tests' Ray is in this process
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 960, 960))
    spec, cores = tiled_spec(tmp_path, "out"), os.cpu_count() or 1
    assert " will wait for " not in said(spec)
    crowded = spec.workers.model_copy(update={"cpus": cores, "min": 2, "max": 3})
    shown = " ".join(said(spec.model_copy(update={"workers": crowded})).split())
    note = f" note run without a cluster, 2 workers of {many(cores, 'CPU')} on {many(cores, 'core')}: they"
    assert f"{note} will wait for one another; set workers.min=1 model" in shown


def test_a_tiled_job_is_estimated_by_the_run_before(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 160, 224))
    first, other = tiled_spec(tmp_path, "first"), tiled_spec(tmp_path, "other")
    summary = run_job(first, local=True, console=Console(quiet=True))
    assert "complete: a run would do nothing" in said(first)
    rate = measured_tiled(Store.open(first.output.uri))
    assert rate is not None
    run = summary["run"]
    assert 0 <= rate.windows.start <= run["seconds"]
    count = summary["windows"]["count"]
    assert (rate.windows.images, run["windows"]["images"]) == (count, count)
    # Of the same windows on as many workers the same time is told, but for what no stage was measured in.
    shown = said(other, first.output.uri)
    assert f"{count} windows of {first.output.uri}" in shown
    assert re.search(r"estimate +[\d.]+ \w+ on 1 worker: \d\.\d\d worker hours", shown), shown
    assert re.search(r"requests +\d+ writes and listings, \d+ reads: \$0\.000\d", shown), shown
    cost = estimate_tiled(rate, None, Todo(count, 3, 1, 4), Todo(count, 1, 1), 0, None)
    assert cost.seconds == pytest.approx(run["seconds"], rel=0.1)
    assert not (tmp_path / "other").exists(), "nothing is written"


def test_an_estimate_by_what_holds_no_job_is_refused(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    with pytest.raises(JobError, match=r"^--like: .*/nope holds no job \(no job\.json\)"):
        said(tiled_spec(tmp_path, "out"), str(tmp_path / "nope"))


def test_what_is_new_among_rasters_is_counted_and_nothing_is_written(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 160, 224))
    spec = tiled_spec(tmp_path, "out", "new")
    before = run_job(spec, local=True, console=Console(quiet=True))["windows"]["count"]
    shown = said(spec)
    assert re.search(r"new +0 rasters", shown), shown
    assert "complete: a run would do nothing" in shown
    write_raster(tmp_path / "in" / "b.tif", terrain(4, 160, 160))
    files = sorted((tmp_path / "out").rglob("*"))
    shown = said(spec)
    assert sorted((tmp_path / "out").rglob("*")) == files
    assert re.search(r"input +1 raster,.*as listed by the first run", shown), shown
    assert re.search(r"new +1 raster,", shown), shown
    found = re.search(r"windows +(\d+) of 96x96", shown)
    assert found, shown
    after = run_job(spec, local=True, console=Console(quiet=True))["windows"]["count"]
    assert int(found[1]) == after > before
    assert "complete" in said(spec)
