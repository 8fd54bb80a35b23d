"""What the plan of a tiled job freezes: rasters from their headers, windows, shards, areas of interest."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.transform import from_origin

from pipeline import watchdog
from pipeline.care import Care
from pipeline.childdecode import unalarmed
from pipeline.decode import DecodeLimits
from pipeline.geo.ranges import Pages, Ranged
from pipeline.known import Known
from pipeline.manifest import InputError, InputSource, Plan, load_plans, read_shard
from pipeline.records import ImageRef, Status, Window
from pipeline.storage import Store, StoreError
from pipeline.tiled.children import RasterChildren
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.groups import groups
from pipeline.tiled.inspect import look_at
from pipeline.tiled.pixels import window_pixels
from pipeline.tiled.planning import extend_tiled, freeze_tiled, open_windows
from pipeline.tiled.reading import WindowReader
from pipeline.tiled.settings import Tiling
from tests.rasters import NORTH_UP, UTM, opened, terrain, write_raster
from tests.tiny import encoded, picture

BLOCKS = {"blockxsize": 32, "blockysize": 32}
TILING = Tiling(size=64, overlap=16)


def planned(folder: Path, output: Path, shard_size: int = 5, tiling: Tiling = TILING, **source: Any) -> Plan:
    sources = (InputSource(str(folder), **source),)
    return freeze_tiled(sources, Store.open(str(output)), shard_size, 0, tiling, DecodeLimits())


def rows(store: Store, plan: Plan) -> list[ImageRef]:
    return [ref for number in range(plan.shards) for ref in read_shard(store, plan, number)]


def rasters_of(output: Path, plan: Plan) -> dict[str, FrozenRaster]:
    return {ref.image_id: read_frozen(ref.raster or "") for ref in rows(Store.open(str(output)), plan)}


def windows_of(output: Path, plan: Plan) -> list[ImageRef]:
    assert plan.windows is not None
    return rows(open_windows(Store.open(str(output))), plan.windows)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two rasters, a photograph, a raster that is cut off, a text file."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "a.tif", terrain(3, 150, 200))
    write_raster(folder / "b.tif", terrain(1, 40, 50, "uint16"))
    (folder / "c.jpg").write_bytes(encoded(picture(0, 100, 130), "JPEG"))
    (folder / "d.tif").write_bytes((folder / "a.tif").read_bytes()[:20])
    (folder / "e.txt").write_text("no image")
    return folder


def test_each_input_is_planned_once_whatever_it_is(mixed: Path, tmp_path: Path) -> None:
    plan = planned(mixed, tmp_path / "out")
    found = rasters_of(tmp_path / "out", plan)
    statuses = {name: raster.status for name, raster in found.items()}
    assert statuses == {
        "a.tif": None,
        "b.tif": None,
        "c.jpg": None,
        "d.tif": Status.CORRUPT,
        "e.txt": Status.UNSUPPORTED,
    }
    assert found["c.jpg"].photograph
    assert (found["a.tif"].width, found["a.tif"].height, found["a.tif"].crs) == (200, 150, UTM)
    assert found["b.tif"].low is not None  # 16 bits are stretched, by the whole raster
    assert plan.crs == UTM
    assert all(found[name].windows == 0 and found[name].reason for name in ("d.tif", "e.txt"))


def test_windows_of_a_raster_follow_each_other_and_its_row_says_where(mixed: Path, tmp_path: Path) -> None:
    plan = planned(mixed, tmp_path / "out")
    windows = windows_of(tmp_path / "out", plan)
    assert len({ref.image_id for ref in windows}) == len(windows)
    for name, raster in rasters_of(tmp_path / "out", plan).items():
        mine = windows[raster.first : raster.first + raster.windows]
        assert {ref.uri for ref in mine} <= {str(mixed / name)}
        covered = np.zeros((raster.height, raster.width), bool)
        for window in (ref.window for ref in mine):
            assert window is not None
            assert (window.width, window.height) == (64, 64)
            covered[window.y : window.y + 64, window.x : window.x + 64] = True
        assert covered.all()


@pytest.mark.parametrize(
    ("scale", "norms", "last"),
    [
        pytest.param(8.0, "raster", 136, id="on multiples of 32 pixels of the network's input, which are 4"),
        pytest.param(1.0, "raster", 160, id="in a small raster too"),
        pytest.param(8.0, "window", 134, id="anywhere, with norms of their own"),
    ],
)
def test_where_the_last_window_begins(tmp_path: Path, scale: float, norms: str, last: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "a.tif", terrain(3, 150, 198))
    tiling = Tiling(size=64, overlap=17, scale=scale, norms=norms)
    plan = planned(folder, tmp_path / "out", tiling=tiling)
    places = [ref.window for ref in windows_of(tmp_path / "out", plan)]
    assert max(place.x for place in places if place is not None) == last


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Tiling(), (1024, 128, 1.0)),
        (Tiling(size=1000, overlap=100), (1024, 128, 1.0)),
        (Tiling(size=1000, overlap=0), (1024, 0, 1.0)),
        (Tiling(scale=0.5), (1024, 128, 0.5)),
        (Tiling(scale=0.7), (1058, 138, 32 / 46)),
        (Tiling(size=64, overlap=32, scale=0.25), (128, 32, 0.25)),
        (Tiling(size=1000, overlap=100, scale=0.7, norms="window"), (1000, 100, 0.7)),
    ],
)
def test_sizes_that_the_grid_asks_for(given: Tiling, expected: tuple[int, int, float]) -> None:
    found = given.on_grid()
    assert (found.size, found.overlap, found.scale) == expected
    assert found.on_grid() == found
    assert found.size * found.scale % 1 == pytest.approx(0)


def test_windows_of_rasters_of_one_grid_lie_on_one_grid_of_the_network(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, left in (("a.tif", 0), ("b.tif", 90), ("c.tif", 145)):
        place = from_origin(NORTH_UP.c + left * NORTH_UP.a, NORTH_UP.f, NORTH_UP.a, -NORTH_UP.e)
        write_raster(folder / name, terrain(3, 100, 130), transform=place)
    tiling = Tiling(size=64, overlap=16, across_rasters=True)
    plan = planned(folder, tmp_path / "out", tiling=tiling)
    windows = windows_of(tmp_path / "out", plan)
    for (name, raster), left in zip(rasters_of(tmp_path / "out", plan).items(), (0, 90, 145), strict=True):
        mine = [ref.window for ref in windows[raster.first : raster.first + raster.windows]]
        assert {Path(ref.uri).name for ref in windows[raster.first : raster.first + raster.windows]} == {name}
        lefts = {window.x for window in mine if window is not None}
        assert all((left + x) % 32 == 0 for x in lefts)
        assert min(lefts) <= 0
        assert max(lefts) + 64 >= 130


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rasters, each wider than the one before."""
    folder = tmp_path_factory.mktemp("growing")
    for number in range(6):
        write_raster(folder / f"{number}.tif", terrain(1, 60, 60 * (number + 1)))
    return folder


@pytest.mark.parametrize("shard_size", [1, 4, 13, 30])
def test_stitch_shards_have_rasters_of_about_as_many_windows(
    growing: Path, tmp_path: Path, shard_size: int
) -> None:
    output = tmp_path / "out"
    plan = planned(growing, output, shard_size)
    assert sum(plan.sizes) == plan.images == 6
    frozen = iter(rasters_of(output, plan).values())
    for size in plan.sizes[:-1]:
        weights = [next(frozen).windows for _ in range(size)]
        assert sum(weights[:-1]) < shard_size <= sum(weights)


def test_a_second_driver_adopts_the_plan_and_leaves_nothing_of_its_own(mixed: Path, tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    first = planned(mixed, tmp_path / "out")
    before = {info.key for info in output.list("")}
    write_raster(mixed / "late.tif", terrain(1, 30, 30))
    assert planned(mixed, tmp_path / "out") == first
    assert {info.key for info in output.list("")} == before
    assert load_plans(open_windows(output)) == [first.windows]


def write_area(path: Path, left: float, top: float, right: float, bottom: float) -> str:
    """A GeoJSON rectangle given in pixels of `NORTH_UP`."""
    corners = [NORTH_UP @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))]
    ring = [list(corner) for corner in [*corners, corners[0]]]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32635"}}
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
    return str(path)


def test_an_area_of_interest_limits_windows_and_drops_rasters_outside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "a.tif", terrain(1, 300, 300))
    write_raster(
        folder / "far.tif", terrain(1, 64, 64), transform=from_origin(500_000, 6_000_000, 0.05, 0.05)
    )
    (folder / "c.jpg").write_bytes(encoded(picture(0), "JPEG"))
    area = write_area(tmp_path / "area.geojson", 10, 10, 60, 60)
    plan = planned(folder, tmp_path / "out", area=area)
    found = rasters_of(tmp_path / "out", plan)
    assert set(found) == {"a.tif", "c.jpg"}
    assert plan.skipped == {"outside_area": 1}
    assert 0 < found["a.tif"].windows < 9
    assert found["c.jpg"].status is Status.UNSUPPORTED  # a photograph lies nowhere


def test_an_area_that_meets_nothing_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(1, 64, 64))
    area = write_area(tmp_path / "area.geojson", 5000, 5000, 6000, 6000)
    with pytest.raises(InputError, match="1 raster, all outside the area of interest") as caught:
        planned(tmp_path / "in", tmp_path / "out", area=area)
    assert str(caught.value).splitlines()[1] == (
        f"{area} spans x 386450 to 386500, y 6471500 to 6471550 (EPSG:32635), "
        "the images x 386200 to 386203, y 6471797 to 6471800; check `area`, and the crs that it names"
    )
    assert not list(Store.open(str(tmp_path / "out")).list(""))


def test_an_area_with_latitude_first_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(1, 64, 64))
    ring = [[58.36, 25.04], [58.38, 25.04], [58.38, 25.08], [58.36, 25.08], [58.36, 25.04]]
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with pytest.raises(InputError, match="with x and y swapped they meet: x is longitude") as caught:
        planned(tmp_path / "in", tmp_path / "out", area=str(area))
    assert f"{area} spans x 58.3600 to 58.3800, y 25.0400 to 25.0800 (OGC:CRS84)" in str(caught.value)
    assert "the images x 25.05" in str(caught.value)


@pytest.mark.parametrize(
    ("tiling", "why"),
    [
        (Tiling(size=64, overlap=16, bands=(1, 2, 5)), "band 5"),
        (Tiling(size=64, overlap=16, resolution=0.0001), "enlarged at most"),
    ],
)
def test_settings_that_a_raster_cannot_serve_cost_that_raster(
    tmp_path: Path, tiling: Tiling, why: str
) -> None:
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 64, 64))
    plan = planned(tmp_path / "in", tmp_path / "out", tiling=tiling)
    (raster,) = rasters_of(tmp_path / "out", plan).values()
    assert raster.status is Status.UNSUPPORTED
    assert why in (raster.reason or "")


def test_rasters_of_several_systems_get_longitude_and_latitude(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(1, 64, 64))
    write_raster(tmp_path / "in" / "b.tif", terrain(1, 64, 64), crs="EPSG:3301")
    assert planned(tmp_path / "in", tmp_path / "out").crs == "OGC:CRS84"
    asked = Tiling(size=64, overlap=16, crs="EPSG:3857")
    assert planned(tmp_path / "in", tmp_path / "other", tiling=asked).crs == "EPSG:3857"


def frozen_at(x: float, y: float, side: int = 100) -> FrozenRaster:
    return FrozenRaster(
        width=side, height=side, bands=(1,), crs=UTM, transform=(1, 0, x, 0, -1, y), windows=1
    )


def test_rasters_are_grouped_by_chains_of_overlaps_and_not_by_touching() -> None:
    chain = [frozen_at(0, 0), frozen_at(500, 0), frozen_at(90, 0), frozen_at(180, 0), frozen_at(600, 0)]
    assert groups(chain, UTM) == [[0, 2, 3], [1], [4]]


def test_what_children_read_is_what_this_process_reads(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", terrain(3, 90, 120, "uint16"), nodata=0, tiled=True, **BLOCKS)
    store, limits = Store.open(str(tmp_path)), DecodeLimits()
    data = Ranged(store, path.name, path.stat().st_size, Pages(1 << 20))
    with closing(RasterChildren(limits)) as children:
        frozen = children.inspect(data, TILING)
        assert frozen == look_at(opened(path), TILING)
        window = Window(60, 40, 64, 64)  # reaches beyond the raster
        here, there = window_pixels(opened(path), frozen, window), children.window(data, frozen, window)
        assert (here.rgb == there.rgb).all()
        assert here.rgb.shape == (50, 60, 3)
        assert here.valid is there.valid is None


def test_a_raster_that_its_store_does_not_give_is_no_death(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", terrain(3, 90, 120), tiled=True, **BLOCKS)
    data = Ranged(Store.open(str(tmp_path)), path.name, path.stat().st_size, Pages(1 << 20))
    path.unlink()
    with closing(RasterChildren(DecodeLimits())) as children, pytest.raises(StoreError):
        children.inspect(data, TILING)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodeLimits]:
    """A store that takes longer for a range, or an object, than an image may; this process does not end."""
    limits = DecodeLimits(seconds=3.0)
    why: list[str] = []
    for name in ("get_range", "get_with_info"):
        quick = getattr(Store, name)

        def get(self: Store, *arguments: Any, quick: Any = quick) -> Any:
            time.sleep(limits.seconds + 1)
            return quick(self, *arguments)

        monkeypatch.setattr(Store, name, get)
    monkeypatch.setattr(watchdog, "die", why.append)
    monkeypatch.setattr(watchdog, "SLACK", 600.0)
    dog = watchdog.Watchdog()
    yield limits
    dog.close()
    assert why == []


def test_the_time_that_a_store_takes_is_not_that_of_a_child(tmp_path: Path, slow: DecodeLimits) -> None:
    path = write_raster(tmp_path / "a.tif", terrain(3, 90, 120), tiled=True, **BLOCKS)
    data = Ranged(Store.open(str(tmp_path)), path.name, path.stat().st_size, Pages(1 << 20))
    with closing(RasterChildren(slow)) as children:
        assert children.inspect(data, TILING) == look_at(opened(path), TILING)


@pytest.mark.parametrize("name", ["a.tif", "b.jpg"])
def test_the_time_that_a_store_takes_is_not_that_of_reading_a_window(
    tmp_path: Path, slow: DecodeLimits, name: str
) -> None:
    raster = FrozenRaster(width=96, height=96)
    if name == "a.tif":
        raster = look_at(opened(write_raster(tmp_path / name, terrain(3, 96, 96))), TILING)
    else:
        (tmp_path / name).write_bytes(encoded(picture(0, 96, 96), "JPEG"))
    place = Window(0, 0, 96, 96)
    ref = ImageRef(name, str(tmp_path / name), 0, window=place, raster=raster.to_json())
    with closing(WindowReader((InputSource(str(tmp_path)),))) as windows:
        assert Care(slow).window(ref, windows).rgb.shape == (96, 96, 3)


def test_a_child_is_not_alarmed_by_what_it_waits_for() -> None:
    """It ends itself in the end if its parent does not, but for a store that is slow."""
    signal.setitimer(signal.ITIMER_REAL, 500)
    with unalarmed():
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 500


def test_headers_are_looked_at_within_the_limits_of_the_job(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    made = RasterChildren.__init__

    def make(self: RasterChildren, limits: DecodeLimits) -> None:
        seen.append(limits)
        made(self, limits)

    monkeypatch.setattr(RasterChildren, "__init__", make)
    limits = DecodeLimits(seconds=77.0)
    freeze_tiled((InputSource(str(mixed)),), Store.open(str(tmp_path / "out")), 5, 0, TILING, limits)
    assert seen == [limits]


def test_later_generations_count_each_skipped_input_once(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "notes").mkdir(parents=True)
    write_raster(folder / "a.tif", terrain(3, 64, 64))
    (folder / "notes" / "1.txt").write_text("no raster")
    source, store = InputSource(str(folder), include=("*.tif",), new=True), Store.open(str(output))
    plans = [freeze_tiled((source,), store, 5, 0, TILING, DecodeLimits())]
    for name, more in (("b.tif", 0), ("c.tif", 1)):
        write_raster(folder / name, terrain(3, 64, 64))
        for number in range(more):
            (folder / "notes" / f"{name}{number}.txt").write_text("no raster either")
        grown, found = extend_tiled((source,), store, plans, Known.of(store, plans), TILING, DecodeLimits())
        assert grown is not None
        assert (grown.images, found.images, found.known) == (1, 1, len(plans))
        assert grown.skipped == ({"not_included": more} if more else {})
        plans.append(grown)
    assert sum(plan.skipped.get("not_included", 0) for plan in plans) == 2
