"""What `plan` says a run takes, against what the run then took: requests counted at the server."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.estimate import Headers, Todo, estimate, estimate_tiled, read_headers
from jobs.preview import preview
from jobs.rates import measured, measured_tiled
from jobs.resolve import settings_of
from jobs.scenes import render
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from pipeline.inputs import Inputs
from pipeline.manifest import load_plans, scan
from pipeline.sampling import Sample
from pipeline.storage import Store
from tests.rasters import write_raster
from tests.tiny import encoded, picture

pytestmark = pytest.mark.cluster

IMAGES = 30


def job(bucket: str, weights: Path, output: str, size: int, **more: object) -> SegmentSpec:
    spec = {
        "kind": "segment",
        "name": "counted",
        "input": {"uri": f"{bucket}/photos"},
        "model": {"weights": str(weights), "score_threshold": 0.5},
        "output": {"uri": f"{bucket}/{output}"},
        "shards": {"images": size},
        **more,
    }
    return load_text(json.dumps(spec), "counted.yaml")


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    store = Store.open(f"{s3_bucket}/photos")
    for number in range(IMAGES - 1):
        store.put(f"{number:03}.png", encoded(picture(number)))
    store.put("broken.png", b"\x89PNG\r\n\x1a\nnothing")
    return s3_bucket


def said(spec: SegmentSpec, **options: object) -> str:
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    preview(spec, console, **options)  # type: ignore[arg-type]
    return console.export_text()


def requests(log: Path, since: int) -> tuple[int, int]:
    """Writes and listings, and reads, that the server's log tells of from a byte on."""
    lines = log.read_bytes()[since:].decode(errors="replace")
    counted = Counter(re.findall(r"(GET|PUT|HEAD) /", lines))
    listings = len(re.findall(r"GET \S+list-type=2", lines))
    return counted["PUT"] + listings, counted["GET"] - listings + counted["HEAD"]


@pytest.mark.parametrize("size", [30, 10, 3])
def test_requests_are_as_many_as_planned(
    bucket: str, weights: Path, tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    first = job(bucket, weights, "first", 10)
    run_job(first, local=True)
    rate = measured(Store.open(first.output.uri))
    assert rate is not None
    spec = job(bucket, weights, f"second-{size}", size)
    log = next(tmp_path_factory.getbasetemp().rglob("moto*/log"))
    before = log.stat().st_size
    run_job(spec, local=True)
    writes, reads = requests(log, before)
    nothing = Headers(0, None, 0.0, ())
    planned = estimate(rate, nothing, Todo(IMAGES, -(-IMAGES // size), 1), 0, None)
    assert writes == pytest.approx(planned.writes, rel=0.25)
    assert reads == pytest.approx(planned.reads, rel=0.25)


def test_requests_of_a_tiled_job_are_as_many_as_planned(
    s3_bucket: str, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rasters")
    for seed in range(2):
        bands = np.ascontiguousarray(render(seed, 256, 256).image.transpose(2, 0, 1))
        path = write_raster(folder / f"{seed}.tif", bands, driver="COG", blocksize=128)
        Store.open(f"{s3_bucket}/photos").put(f"{seed}.tif", path.read_bytes())
    # Weights of chance see things the size of a window everywhere; a few of them are enough.
    model = {"weights": str(weights), "score_threshold": 0.5, "max_instances": 10}
    more = {"model": model, "tiling": {"size": 128, "overlap": 32}, "shards": {"images": 6}}
    first, second = (job(s3_bucket, weights, name, 6, **more) for name in ("first", "second"))
    run_job(first, local=True)
    rate = measured_tiled(Store.open(first.output.uri))
    assert rate is not None
    log = next(tmp_path_factory.getbasetemp().rglob("moto*/log"))
    before = log.stat().st_size
    run_job(second, local=True)
    writes, reads = requests(log, before)
    plan = load_plans(Store.open(second.output.uri))[0]
    assert plan.windows is not None
    windows = Todo(plan.windows.images, plan.windows.shards, 1, plan.windows.shard_size)
    planned = estimate_tiled(rate, None, windows, Todo(plan.windows.images, plan.shards, 1), 0, None)
    assert writes == pytest.approx(planned.writes, rel=0.25)
    assert reads == pytest.approx(planned.reads, rel=0.25)


def test_plan_says_what_it_takes_once_something_was_run(bucket: str, weights: Path) -> None:
    spec = job(bucket, weights, "out", 10)
    before = said(spec)
    assert f"{IMAGES} images" in before
    assert "none: nothing was run yet" in before
    assert "of 30 inputs: 0.01 megapixels on average, 0.01 the largest" in before
    assert "broken.png: corrupt" in before
    run_job(spec, local=True)
    assert "complete: a run would do nothing" in said(spec)
    like = said(job(bucket, weights, "other", 10), like=spec.output.uri)
    assert f"{IMAGES} images of {spec.output.uri}" in like
    assert re.search(r"estimate +[\d.]+ \w+ on 1 worker: \d\.\d\d worker hours", like), like
    assert re.search(r"requests +\d+ writes and listings, \d+ reads: \$0\.000\d at S3's list price", like), (
        like
    )
    assert not list(Store.open(f"{bucket}/other").list()), "nothing is written"


def test_check_opens_the_model_and_ten_images(bucket: str, weights: Path) -> None:
    spec = job(bucket, weights, "out", 10)
    shown = said(spec, check=True)
    assert "checked: the model opens" in shown
    assert shown.count("checked: ") == 11
    assert not list(Store.open(f"{bucket}/out").list())


def test_the_sample_is_the_same_each_time_and_spread(bucket: str, weights: Path) -> None:
    settings = settings_of(job(bucket, weights, "out", 10))
    samples = [Sample(8), Sample(8)]
    for sample in samples:
        scan(settings.sources, sample=sample)
    names = [[ref.image_id for ref in sample.refs] for sample in samples]
    assert names[0] == names[1] == sorted(names[0])
    assert len(names[0]) == 8
    headers = read_headers(Inputs(settings.sources), samples[0].refs)
    assert headers.looked_at == 8
    assert headers.megapixels == pytest.approx(96 * 128 / 1e6)
