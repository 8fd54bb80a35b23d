"""The viewer over HTTP: what it finds, what it shows, and whom it refuses."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from condinst import rle
from jobs.viewer import shelf
from jobs.viewer.filters import Filter
from jobs.viewer.index import Index
from pipeline import tables
from pipeline.commit import commit_key
from pipeline.schemas import TABLES
from pipeline.storage import Store
from tests.made import made_job, work
from tests.tiny import encoded, picture
from tests.viewing import Site, georeferenced, segment, viewing

STATIC = ("/", "/static/viewer.js", "/static/viewer.css", "/static/rle.js")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen") / "photographs"
    (folder / "sub").mkdir(parents=True)
    for number in range(9):
        (folder / ("sub" if number % 2 else ".") / f"{number}.png").write_bytes(
            encoded(picture(number, 120, 160))
        )
    (folder / "empty.png").write_bytes(encoded(np.full((64, 64, 3), 90, np.uint8)))
    (folder / "broken.png").write_bytes(encoded(picture(1))[:200])
    return folder


@pytest.fixture(scope="module")
def run(photographs: Path) -> tables.Run:
    return segment(photographs, str(photographs.parent / "masks"), shard=4, score=0.02)


@pytest.fixture(scope="module")
def site(run: tables.Run) -> Iterator[Site]:
    with viewing(run) as site:
        yield site


@pytest.fixture(scope="module")
def index(run: tables.Run) -> Iterator[Index]:
    index = Index(run)
    index.fill()
    assert index.complete
    assert index.error is None
    yield index
    index.close()


def number_of(site: Site, image_id: str) -> int:
    no: int = site.get("/api/runs/0/find", image_id=image_id).json["no"]
    return no


def test_the_run_is_told_as_its_tables_have_it(site: Site, run: tables.Run) -> None:
    about = site.get("/api/runs").json[0]
    assert about["images"] == run.images(["image_id"]).num_rows == 11
    assert about["instances"] == run.instances(["image_id"]).num_rows > 20
    assert about["statuses"]["corrupt"] == 1
    assert about["indexed"] == about["shards"] == len(run.shards)


def test_a_page_holds_the_images_in_plan_order(site: Site, run: tables.Run) -> None:
    whole = site.get("/api/runs/0/images", size=500).json
    assert [row["image_id"] for row in whole["images"]] == run.images(["image_id"])["image_id"].to_pylist()
    pages = [site.get("/api/runs/0/images", size=4, page=page).json for page in range(4)]
    assert [row for page in pages for row in page["images"]] == whole["images"]
    assert {page["total"] for page in pages} == {11}


scores = st.integers(0, 100).map(lambda hundredths: hundredths / 100)


@settings(max_examples=60)
@given(
    statuses=st.sets(st.sampled_from(["ok", "empty", "corrupt"])),
    classes=st.sets(st.integers(0, 9)),
    low=scores,
    high=scores,
    least=st.none() | st.integers(0, 8),
    most=st.none() | st.integers(0, 30),
    text=st.sampled_from(["", "SUB", "png", "%", "_", "trunc"]),
    sort=st.sampled_from(["order", "name", "count", "best", "worst", "pixels"]),
    falling=st.booleans(),
)
def test_a_filter_finds_what_a_loop_over_the_rows_finds(
    index: Index,
    run: tables.Run,
    statuses: set[str],
    classes: set[int],
    low: float,
    high: float,
    least: int | None,
    most: int | None,
    text: str,
    sort: Any,
    falling: bool,
) -> None:
    names = tuple(index.categories[number % len(index.categories)] for number in classes)
    wanted = Filter(
        status=tuple(statuses),
        category=names,
        score_min=low,
        score_max=high,
        count_min=least,
        count_max=most,
        text=text,
        sort=sort,
        falling=falling,
        size=500,
    )
    narrowed = bool(names) or low > 0 or high < 1
    instances = run.instances(["image_id", "category", "score"]).to_pylist()
    expected = {}
    for row in run.images(["image_id", "status", "error"]).to_pylist():
        counted = [
            i["score"]
            for i in instances
            if i["image_id"] == row["image_id"]
            and (not names or i["category"] in names)
            and (not narrowed or np.float32(low) <= np.float32(i["score"]) <= np.float32(high))
        ]
        fewest = least if least is not None else (1 if narrowed and most != 0 else 0)
        if (
            (not statuses or row["status"] in statuses)
            and fewest <= len(counted) <= (10**9 if most is None else most)
            and text.lower() in f"{row['image_id']}\n{row['error'] or ''}".lower()
        ):
            expected[row["image_id"]] = (len(counted), max(counted, default=None), min(counted, default=None))
    page = index.page(wanted)
    assert {row["image_id"]: (row["hits"], row["best"], row["worst"]) for row in page.images} == expected
    assert page.total == len(expected)
    keys = [_sort_key(row, sort) for row in page.images if _sort_key(row, sort) is not None]
    assert keys == sorted(keys, reverse=falling)


def _sort_key(row: dict[str, Any], sort: str) -> Any:
    if sort == "pixels":
        return None if row["width"] is None else row["width"] * row["height"]
    return row[{"order": "no", "name": "image_id", "count": "hits", "best": "best", "worst": "worst"}[sort]]


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("size", [1, 4, 500])
def test_pages_in_plan_order_need_no_index(run: tables.Run, index: Index, size: int, falling: bool) -> None:
    early = Index(run)
    early.shelf.learn(lambda: False, lambda: None)
    for page in range(11 // size + 2):
        wanted = Filter(size=size, page=page, falling=falling)
        assert early.page(wanted) == index.page(wanted)
    assert [early.image(no) for no in range(12)] == [index.image(no) for no in range(12)]
    assert early.shards == 0
    early.close()


def test_the_first_page_waits_for_the_first_record_alone(
    run: tables.Run, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of what is known, that says so; classes keep their places when more come."""
    monkeypatch.setattr(shelf, "_TOGETHER", 0)
    monkeypatch.setattr(shelf, "FIRST", 1)
    early = Index(run)
    early.shelf.learn_first(lambda: bool(early.shelf.known.commits), lambda: None)
    first = early.page(Filter(size=500))
    assert (first.total, first.whole) == (4, False)
    assert first.images == index.page(Filter(size=4)).images
    classes = early.categories
    early.shelf.learn(lambda: False, lambda: None)
    assert early.categories[: len(classes)] == classes
    assert sorted(early.categories) == sorted(index.categories)
    assert early.page(Filter(size=500)).whole
    early.close()


def test_what_needs_the_index_says_that_it_is_filling(run: tables.Run) -> None:
    early = Index(run)
    early.shelf.learn(lambda: False, lambda: None)
    sorted_by_name = early.page(Filter(sort="name"))
    assert (sorted_by_name.total, sorted_by_name.whole) == (0, False)
    name = run.images(["image_id"])["image_id"].to_pylist()[7]
    assert early.find(name) is None
    found = early.find(name, near=7)
    assert found is not None
    assert found["no"] == 7
    early.fill()
    assert early.page(Filter(sort="name")).whole
    assert early.find(name, near=3) == found
    early.close()


def test_pixels_are_those_of_the_file(site: Site, photographs: Path) -> None:
    no = number_of(site, "sub/1.png")
    answer = site.get(f"/api/runs/0/images/{no}/pixels")
    assert answer.headers["Content-Type"] == "image/png"
    whole = np.asarray(Image.open(photographs / "sub" / "1.png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), whole)
    part = site.get(f"/api/runs/0/images/{no}/pixels", x=10, y=20, width=30, height=40)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(part.body))), whole[20:60, 10:40])
    half = Image.open(io.BytesIO(site.get(f"/api/runs/0/images/{no}/pixels", step=2).body))
    assert half.size == (80, 60)


def test_an_image_s_instances_are_its_rows(site: Site, run: tables.Run) -> None:
    no = number_of(site, "sub/1.png")
    rows = run.instances(filter=pc.field("image_id") == "sub/1.png").to_pylist()
    found = site.get(f"/api/runs/0/images/{no}/instances").json
    assert found["total"] == len(rows) > 0
    assert found["score"] == [row["score"] for row in rows]
    for at, row in enumerate(rows):
        mask = rle.decode(found["counts"][at].encode(), found["height"][at], found["width"][at])
        assert np.array_equal(mask, tables.crop(row))
        assert (found["x"][at], found["y"][at]) == (row["mask"]["x"], row["mask"]["y"])


def test_a_part_of_an_image_has_the_instances_that_meet_it(site: Site) -> None:
    no = number_of(site, "sub/1.png")
    found = site.get(f"/api/runs/0/images/{no}/instances").json
    part = site.get(f"/api/runs/0/images/{no}/instances", x=0, y=0, width=60, height=50).json
    meeting = [i for at, i in enumerate(found["id"]) if found["x"][at] < 60 and found["y"][at] < 50]
    assert part["id"] == meeting


def test_thumbnails_show_the_masks(site: Site) -> None:
    no = number_of(site, "sub/1.png")
    plain, drawn = (
        np.asarray(
            Image.open(io.BytesIO(site.get(f"/api/runs/0/images/{no}/thumbnail", masks=masks).body)), np.int64
        )
        for masks in (0, 200)
    )
    assert plain.shape == drawn.shape
    assert max(plain.shape) <= 288
    assert np.abs(plain - drawn).max() > 40


def test_an_image_without_pixels_says_why(site: Site) -> None:
    no = number_of(site, "broken.png")
    for kind in ("pixels", "thumbnail"):
        answer = site.get(f"/api/runs/0/images/{no}/{kind}")
        assert answer.status == 404
        assert "corrupt" in answer.json["error"]


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        ("/api/runs/0/images", {"score_min": "2"}, "score_min"),
        ("/api/runs/0/images", {"sort": "no; DROP TABLE images"}, "sort"),
        ("/api/runs/0/images", {"colour": "red"}, "colour"),
        ("/api/runs/0/images", {"page": "-1"}, "page"),
        ("/api/runs/0/images/0/pixels", {"step": "0"}, "step"),
        ("/api/runs/0/images/0/pixels", {"x": "100000"}, "x"),
        ("/api/runs/0/map", {"west": "nan", "south": 0, "east": 0, "north": 0}, "degrees"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_in_words(
    site: Site, path: str, query: dict[str, Any], said: str
) -> None:
    answer = site.get(path, **query)
    assert answer.status == 400
    assert said in answer.json["error"]


@pytest.mark.parametrize("path", ["/api/runs/7/images", "/api/runs/0/images/99999", "/api/runs/0/find"])
def test_what_is_not_there_is_not_found(site: Site, path: str) -> None:
    assert site.get(path).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/vendor/../../server.py",
        "/../../../../etc/passwd",
        "/api/runs/0/images/..%2f..%2fetc%2fpasswd/pixels",
        "/api/runs/0/images/-1/pixels",
    ],
)
def test_no_path_leads_out(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 404
    assert b"root:" not in answer.body
    assert b"aiohttp" not in answer.body


def test_an_image_outside_the_inputs_is_not_read(tmp_path: Path) -> None:
    """A plan that was tampered with points at a file beside the inputs; nothing is served of it."""
    inputs, secret = tmp_path / "inputs", tmp_path / "secret.png"
    inputs.mkdir()
    secret.write_bytes(encoded(picture(3)))
    (inputs / "a.png").write_bytes(encoded(picture(2)))
    run = segment(inputs, str(tmp_path / "masks"))
    job = json.loads(run.store.get("job.json"))
    other = tmp_path / "elsewhere"
    other.mkdir()
    job["spec"]["input"][0]["uri"] = str(other)
    run.store.put("job.json", json.dumps(job).encode())
    with viewing(tables.open(run.store.uri)) as site:
        answer = site.get("/api/runs/0/images/0/pixels")
    assert answer.status == 404
    assert "inputs" in answer.json["error"]


def test_a_link_out_of_the_inputs_leads_nowhere(site: Site, photographs: Path) -> None:
    """The file was swapped for a link to another after the run: its etag is not the planned one."""
    no = number_of(site, "8.png")
    (photographs / "8.png").unlink()
    (photographs / "8.png").symlink_to("/etc/passwd")
    answer = site.get(f"/api/runs/0/images/{no}/pixels")
    assert answer.status == 404
    assert b"root:" not in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"])
def test_another_name_for_this_machine_is_refused(site: Site, host: str) -> None:
    for path in (*STATIC, "/api/runs"):
        assert site.get(path, {"Host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost:80", "127.0.0.1", "[::1]:9000", "localhost"])
def test_this_machine_s_own_names_are_taken(site: Site, host: str) -> None:
    assert site.get("/api/runs", {"Host": host}).status == 200


def test_with_a_token_nothing_is_told_without_it(run: tables.Run) -> None:
    with viewing(run, token="s3cret-token") as site:
        for path in (*STATIC, "/api/runs", "/api/runs/0/images", "/nothing"):
            assert site.get(path).status == 401
            assert site.get(path, token="s3cret-toke").status == 401
            assert site.get(path, {"Cookie": "condinst-view=wrong"}).status == 401
        entered = site.get("/", token="s3cret-token")
        assert (entered.status, entered.headers["Location"]) == (302, "/")
        cookie = entered.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        told = site.get("/api/runs", {"Cookie": cookie.partition(";")[0], "Host": "farm.example:8765"})
        assert told.status == 200


def test_every_answer_forbids_what_is_not_from_here(site: Site) -> None:
    for path in (*STATIC, "/api/runs", "/nothing"):
        policy = site.get(path).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


def test_a_tiled_run_s_raster_is_served_by_parts_and_on_the_map(tmp_path: Path) -> None:
    run = georeferenced(tmp_path)
    with rasterio.open(tmp_path / "ground" / "mosaic.tif") as source:
        whole = source.read((1, 2, 3)).transpose(1, 2, 0)
    with viewing(run) as site:
        for step, query in ((1, {"x": 700, "y": 30, "width": 60, "height": 50}), (4, {})):
            answer = site.get("/api/runs/0/images/0/pixels", step=step, **query)
            part = np.asarray(Image.open(io.BytesIO(answer.body)), np.int64)
            if step == 1:
                assert np.array_equal(part, whole[30:80, 700:760])
            else:
                mean = whole.reshape(192, 4, 192, 4, 3).mean((1, 3))
                assert np.abs(part - mean).mean() < 2  # its overviews are resampled in GDAL's way
        assert site.get("/api/runs/0/images/0/thumbnail").status == 200
        about = site.get("/api/runs").json[0]
        assert about["georeferenced"]
        west, south, east, north = about["bounds"]
        box = {"west": west - 1e-3, "south": south - 1e-3, "east": east + 1e-3, "north": north + 1e-3}
        found = site.get("/api/runs/0/map", **box).json
        assert found["total"] == run.instances(["image_id"]).num_rows == len(found["features"]["features"])
        assert found["kind"] == "instances"
        assert len(found["images"]) == 1
        (image,) = found["images"]
        ground = shapely.Polygon(image["corners"]).buffer(1e-6)
        for feature in found["features"]["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.geom_type in ("Polygon", "MultiPolygon")
            assert ground.contains(shape)
        sure = site.get("/api/runs/0/map", **box, score=0.6).json
        assert sure["total"] == pc.sum(pc.greater_equal(run.instances(["score"])["score"], 0.6)).as_py()
        nowhere = site.get("/api/runs/0/map", west=0, south=0, east=1, north=1).json
        assert nowhere["total"] == 0


def test_an_output_in_s3_is_seen_as_one_on_disk(
    s3_bucket: str, photographs: Path, run: tables.Run, tmp_path: Path
) -> None:
    store = Store.open(f"{s3_bucket}/masks")
    for path in sorted(Path(run.store.uri).rglob("*")):
        if path.is_file():
            store.put(path.relative_to(run.store.uri).as_posix(), path.read_bytes())
    with viewing(tables.open(store.uri), run) as site:
        remote, local = (site.get(f"/api/runs/{n}/images", size=500).json for n in (0, 1))
        assert remote["images"] == local["images"]
        no = number_of(site, "sub/1.png")
        one, two = (site.get(f"/api/runs/{n}/images/{no}/pixels").body for n in (0, 1))
        assert one == two


def test_an_index_holds_what_was_committed_and_nothing_else(tmp_path: Path) -> None:
    """Shards without a commit, and files that no commit names, are not there."""
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=10)
    for shard in ("0000-000000", "0000-000002"):
        work(store, shard)
    for table in TABLES:
        store.put(f"{table}/0000-000001.parquet", store.get(f"{table}/0000-000000.parquet"))
    index = Index(tables.open(store.uri))
    index.fill()
    ids = [row["image_id"] for row in index.page(Filter(size=500)).images]
    assert ids == ["000.png", "001.png", "002.png", "003.png", "008.png", "009.png"]
    index.close()


def test_a_table_that_is_gone_is_told(tmp_path: Path) -> None:
    store = made_job(str(tmp_path / "masks"), tmp_path / "inputs", images=8)
    for shard in ("0000-000000", "0000-000001"):
        work(store, shard)
    os.unlink(tmp_path / "masks" / "instances" / "0000-000001.parquet")
    assert store.head(commit_key("0000-000001")).size
    index = Index(tables.open(store.uri))
    index.fill()
    assert not index.complete
    assert "0000-000001" in str(index.error)
    assert index.page(Filter()).total == 4
    index.close()
