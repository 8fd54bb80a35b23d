"""What `plan` says a run takes, against what the run then took: requests counted at the server."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.estimate import Headers, Rate, estimate, measured, read_headers
from jobs.preview import preview
from jobs.resolve import settings_of
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from pipeline.inputs import Inputs
from pipeline.manifest import scan
from pipeline.sampling import Sample
from pipeline.storage import Store
from tests.tiny import encoded, picture

pytestmark = pytest.mark.cluster

IMAGES = 30


def job(bucket: str, weights: Path, output: str, size: int) -> SegmentSpec:
    spec = {
        "kind": "segment",
        "name": "counted",
        "input": {"uri": f"{bucket}/photos"},
        "model": {"weights": str(weights), "score_threshold": 0.5},
        "output": {"uri": f"{bucket}/{output}"},
        "shards": {"images": size},
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
    lines = log.read_bytes()[before:].decode(errors="replace")
    counted = Counter(re.findall(r"(GET|PUT|HEAD) /", lines))
    listings = len(re.findall(r"GET \S+list-type=2", lines))
    nothing = Headers(0, None, 0.0, ())
    planned = estimate(rate, nothing, IMAGES, -(-IMAGES // size), 1, 0, None)
    assert counted["PUT"] + listings == pytest.approx(planned.writes, rel=0.25)
    assert counted["GET"] - listings + counted["HEAD"] == pytest.approx(planned.reads, rel=0.25)


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
    assert re.search(r"estimate +\d+ s on 1 workers: 0\.00 worker hours", like), like
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


def test_workers_share_whole_shards_and_gpus_cost() -> None:
    rate = Rate(seconds_per_megapixel=2.0, seconds_per_image=1.0, images=10, start=10.0)
    headers = Headers(4, 3.0, 5.0, (("bad", "corrupt: it is"),))
    cost = estimate(rate, headers, images=1000, shards=10, workers=4, gpus=1, price=1.5)
    # Ten shards on four workers: the last to end has three. A quarter of the images is not read.
    assert cost.seconds == pytest.approx(10 + 1000 * 2.0 * 3.0 * 0.75 * 0.3)
    assert cost.gpu_hours == pytest.approx(cost.seconds * 4 / 3600)
    assert cost.gpu_cost == pytest.approx(cost.gpu_hours * 1.5)
    nothing = estimate(rate, headers, images=0, shards=0, workers=1, gpus=1, price=1.5)
    assert (nothing.seconds, nothing.gpu_cost, nothing.writes, nothing.reads) == (0, 0, 0, 0)
