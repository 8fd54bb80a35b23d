"""A run's report: its numbers are those of the tables, its texts stay texts, its charts are sound."""

from __future__ import annotations

import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from jobs.run_report.charts import area, bars, nice, shares, short
from jobs.run_report.gather import PER_OCTAVE, SCORE_BINS, Gathered, gather, gist
from jobs.run_report.overlays import _groups, overlays
from jobs.run_report.pace import BINS, pace_of
from jobs.run_report.page import REPORT_KEY, put_report, render
from pipeline import tables
from pipeline.commit import Commit, TableFile, Work
from pipeline.ledger import Ledger
from pipeline.storage import Store
from tests.made import made_job, plan_of, work
from tests.viewing import georeferenced

texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
values = st.lists(st.floats(0, 1e9), min_size=1, max_size=60)


@pytest.fixture
def run(tmp_path: Path) -> tables.Run:
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=22)
    for shard in plan_of(store).shard_ids():
        work(store, shard)
    return tables.open(store.uri)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_numbers_are_those_of_the_tables(run: tables.Run) -> None:
    images, instances = run.images().to_pylist(), run.instances().to_pylist()
    found = gather(run)
    assert found.statuses == Counter(row["status"] for row in images)
    for name, figures in found.classes.items():
        own = [row for row in instances if row["category"] == name]
        assert figures.instances == figures.scores.sum() == figures.areas.sum() == len(own)
        assert figures.truncated == sum(row["truncated"] for row in own)
        scores = Counter(min(int(np.float32(row["score"]) * SCORE_BINS), SCORE_BINS - 1) for row in own)
        assert {at: n for at, n in enumerate(figures.scores) if n} == scores
        areas = Counter(int(math.log2(row["area"]) * PER_OCTAVE) for row in own)
        assert {at: n for at, n in enumerate(figures.areas) if n} == areas
    assert found.instances == len(instances)
    decoded = [row["instances"] for row in images if row["status"] in ("ok", "empty")]
    by_octave = Counter(0 if n == 0 else 1 + int(math.log2(n)) for n in decoded)
    assert {at: n for at, n in enumerate(found.per_image) if n} == by_octave
    assert sum(trouble.inputs for trouble in found.troubles.values()) == found.statuses["corrupt"]


def test_the_images_chosen_are_the_extremes(run: tables.Run) -> None:
    images, instances = run.images().to_pylist(), run.instances().to_pylist()
    found = gather(run)
    ok = [row["image_id"] for row in images if row["status"] == "ok"]
    means = {i: np.mean([r["score"] for r in instances if r["image_id"] == i]) for i in ok}
    cut = {i: sum(r["truncated"] for r in instances if r["image_id"] == i) for i in ok}
    assert [row["image_id"] for row in found.lowest.rows] == sorted(ok, key=means.__getitem__)[:4]
    assert [cut[row["image_id"]] for row in found.cut.rows] == sorted(filter(None, cut.values()))[::-1][:4]
    assert [row["instances"] for row in found.densest.rows] == [4] * 4
    assert len(found.random.rows) == 6
    assert found.random.rows == gather(run).random.rows


def test_errors_of_one_kind_are_one_row() -> None:
    assert gist("s3://a/b/1.jpg: 1,234 bytes") == gist("s3://a/b/2.jpg: 99 bytes")
    assert gist("PNG: 'a'") == gist("PNG: 'b'") != gist("JPEG: 'a'")


def test_the_page_holds_itself_and_says_what_there_is(run: tables.Run) -> None:
    text = render(run)
    page = Page(text)
    assert page.tags["script"] == page.tags["iframe"] == 0
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"url\(|@import", text)
    assert len(text.encode()) < 5_000_000
    for said in (str(run.job["fingerprint"]), str(run.job["model_digest"]), "cut off", run.store.uri):
        assert said in page.text
    assert f"{run.instances(['image_id']).num_rows}" in page.text


def test_what_comes_from_outside_stays_text(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=10)
    for shard in plan_of(store).shard_ids():
        work(store, shard)
    hostile = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">'
    run = tables.open(store.uri)
    clean = Page(render(run))
    run.job |= {"name": hostile, "spec": {"name": hostile}, "versions": {hostile: hostile}}
    page = Page(render(run))
    assert page.tags["script"] == 0
    assert page.tags["img"] == clean.tags["img"]
    assert hostile in page.text


def test_an_output_without_rows_has_a_page(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=10)
    text = render(tables.open(store.uri))
    assert "Not complete" in text
    assert "no instances" in text


def test_a_report_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=4)
    work(store, "0000-000000")
    (tmp_path / "masks" / "instances" / "0000-000000.parquet").unlink()
    console = Console(record=True, width=400)
    put_report(Store.open(store.uri), console)
    said = console.export_text()
    assert "was not written" in said
    assert "0000-000000" in said
    assert REPORT_KEY not in {info.key for info in store.list()}
    assert Ledger(store).read("0000-000000")


def commit(shard: int, first: float, last: float, images: int, worker: str = "w") -> Commit:
    files = {table: TableFile(0, 0, "") for table in ("instances", "images")}
    spent = {"model": last - first, "decode": 0.1}
    done = Work(worker, first, last, last - first, seconds=spent)
    return Commit(f"0000-{shard:06d}", "a", "f", files, {"ok": images}, {}, 0, 0, last, done)


shards_in_time = st.lists(
    st.tuples(st.floats(0, 1e4), st.floats(0.01, 1e3), st.integers(1, 1000)), min_size=1, max_size=30
)


@given(shards_in_time)
def test_the_rates_add_up_to_the_images(shards: list[tuple[float, float, int]]) -> None:
    commits = [commit(at, 1e9 + t, 1e9 + t + length, n) for at, (t, length, n) in enumerate(shards)]
    pace = pace_of(commits)
    assert pace is not None
    stretch = pace.seconds / BINS
    assert float(pace.rates.sum()) * stretch == pytest.approx(sum(n for *_, n in shards), rel=1e-3)
    assert 0 <= pace.tail <= 1
    assert pace.stages["model"] == pytest.approx(sum(length for _, length, _ in shards), rel=1e-3)


def test_a_straggler_is_found() -> None:
    commits = [commit(at, at, at + 1, 10) for at in range(9)] + [commit(9, 9, 14, 10, "slow")]
    pace = pace_of(commits)
    assert pace is not None
    assert [(s.shard, s.worker, s.times) for s in pace.stragglers] == [("0000-000009", "slow", 5.0)]
    assert pace.workers[0].worker == "slow"
    assert pace_of([commit(0, 1, 2, 3)]).stragglers == []  # type: ignore[union-attr]


@given(values, texts, texts, texts)
@example([5e-324], "", "", "")
def test_charts_are_whole_svg_whatever_they_say(
    heights: list[float], title: str, x_name: str, label: str
) -> None:
    for drawn in (
        bars(heights, [label] * len(heights), title, x_name),
        area(heights, (label, label), title, x_name, "rate"),
        shares([(label, value) for value in heights], title),
    ):
        svg = ElementTree.fromstring(str(drawn))
        assert (svg.find("title").text or "") == title  # type: ignore[union-attr]
        assert svg.find("desc").text  # type: ignore[union-attr]
        assert str(bars(heights, [label] * len(heights), title, x_name)) == str(
            bars(heights, [label] * len(heights), title, x_name)
        )
        for shape in svg.iter("rect"):
            assert float(shape.get("width", "-1")) >= 0
            assert float(shape.get("height", "-1")) >= -0.05


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_at_a_round_number_that_holds_all(value: float) -> None:
    top = nice(value)
    assert value * (1 - 1e-6) <= top <= 10 * value
    assert f"{top:e}"[0] in "123468"


def test_numbers_are_short() -> None:
    said = [short(value) for value in (0, 0.25, 7, 1240, 12_400, 3_100_000, 2.5e9)]
    assert said == ["0", "0.25", "7", "1,240", "12.4 k", "3.1 M", "2.5 G"]


def test_a_tiled_run_shows_parts_of_its_rasters_and_the_pace_of_its_windows(tmp_path: Path) -> None:
    run = georeferenced(tmp_path)
    parts = overlays(run, gather(run))
    assert parts[0].overlays[0].picture.startswith("data:image/webp")
    assert pace_of(run.commits) is None
    assert "windows a second" in render(run)


def test_a_large_raster_is_shown_where_its_reason_lies() -> None:
    x, y = np.array([10.0, 900.0, 3000.0, 3010.0]), np.array([10.0, 10.0, 3000.0, 3000.0])
    scores = np.array([0.9, 0.2, 0.5, 0.5])
    reasons = {reason.title: reason for reason, _ in _groups(Gathered())}
    picked = {title: reason.pick(x, y, scores, 905) for title, reason in reasons.items()}
    assert picked == {"Random": 2, "Densest": 0, "Least sure": 1, "At seams and edges": 1}
