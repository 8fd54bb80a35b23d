"""One statistic for all windows of a raster: where it is looked for, who decides, and what it changes."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geo.aoi import RasterArea
from pipeline.manifest import InputSource
from pipeline.records import ImageRef, Window
from pipeline.storage import Store, StoreError
from pipeline.tiled.frozen import FrozenRaster, Part
from pipeline.tiled.norms import ACROSS, RasterNorms, Statistics, squares_in, squares_of
from pipeline.tiled.settings import Tiling
from tests.rasters import write_noise, write_raster
from tests.tiled import tiled_job
from tests.tiny import picture, tiny_weights

SIDE = 64


def _raster(width: int, height: int, part: Part | None = None) -> FrozenRaster:
    return FrozenRaster(width=width, height=height, bands=(1, 2, 3), windows=9, part=part)


def _ref(raster: FrozenRaster, uri: str = "s3://b/a.tif") -> ImageRef:
    return ImageRef("a.tif:0,0", uri, 0, window=Window(0, 0, 32, 32), raster=raster.to_json())


class Measured:
    """Counts how often it is asked, and remembers in what."""

    def __init__(self, value: float, size: int = 4) -> None:
        self.found = np.full(size, value, np.float32)
        self.asked: list[list[Window | None]] = []

    def __call__(self, squares: Sequence[ImageRef]) -> Statistics:
        self.asked.append([square.window for square in squares])
        assert len({square.image_id for square in squares}) == len(squares)
        return self.found


@st.composite
def _looked_at(draw: st.DrawFn) -> FrozenRaster:
    width, height = draw(st.integers(1, 2000)), draw(st.integers(1, 2000))
    if draw(st.booleans()):
        return _raster(width, height)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return _raster(
        width, height, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))
    )


@given(_looked_at())
def test_squares_lie_in_the_raster_and_on_what_is_of_interest(raster: FrozenRaster) -> None:
    squares = squares_of(raster, 512 / SIDE)
    left, top, right, bottom = raster.part or (0, 0, raster.width, raster.height)
    assert 1 <= len(squares) == len(set(squares)) <= ACROSS**2
    for square in squares:
        assert left <= square.x < square.x + square.width <= right
        assert top <= square.y < square.y + square.height <= bottom
    if max(right - left, bottom - top) <= 2 * SIDE:
        assert squares == [Window(left, top, right - left, bottom - top)]
    else:
        size = min(SIDE, right - left), min(SIDE, bottom - top)
        assert all((square.width, square.height) == size for square in squares)


def test_a_strip_is_looked_at_all_along_and_an_area_where_it_is() -> None:
    strip = squares_of(_raster(SIDE * 100, SIDE), 512 / SIDE)
    assert len(strip) == ACROSS**2
    assert (strip[0].x, strip[-1].x) == (0, SIDE * 99)
    corners = shapely.MultiPolygon([shapely.box(0, 0, 200, 200), shapely.box(4800, 4800, 5000, 5000)])
    squares = squares_in(RasterArea(corners, 5000, 5000), 512 / SIDE)
    assert squares is not None
    assert len(squares) == ACROSS**2
    places = [shapely.box(x, y, x + SIDE, y + SIDE) for x, y in squares]
    assert all(shapely.intersects(corners, place) for place in places)
    raster = replace(_raster(5000, 5000, (0, 0, 5000, 5000)), squares=squares)
    assert squares_of(raster, 512 / SIDE) == [Window(x, y, SIDE, SIDE) for x, y in squares]


def test_a_raster_is_looked_at_once_and_the_first_in_the_store_decides(tmp_path: Path) -> None:
    store, first, second = Store.open(str(tmp_path)), Measured(1), Measured(2)
    ref = _ref(_raster(400, 400))
    one, other = (RasterNorms(store, scale=512 / SIDE) for _ in range(2))
    for norms, measure in ((one, first), (one, second), (other, second)):
        found = norms.of(ref, measure)
        assert found is not None
        np.testing.assert_array_equal(found, first.found)
    assert len(first.asked) == 1
    assert not second.asked
    assert len(first.asked[0]) == ACROSS**2


def test_who_comes_second_takes_what_is_there(tmp_path: Path) -> None:
    store, slow, fast = Store.open(str(tmp_path)), Measured(1), Measured(2)
    ref = _ref(_raster(400, 400))

    def overtaken(squares: Sequence[ImageRef]) -> Statistics:
        RasterNorms(store, 512 / SIDE).of(ref, fast)
        return slow(squares)

    found = RasterNorms(store, 512 / SIDE).of(ref, overtaken)
    assert found is not None
    np.testing.assert_array_equal(found, fast.found)


def test_another_raster_has_its_own_and_one_that_is_a_small_window_none(tmp_path: Path) -> None:
    norms, measure = RasterNorms(Store.open(str(tmp_path)), 512 / SIDE), Measured(1)
    norms.of(_ref(_raster(400, 400)), measure)
    norms.of(_ref(_raster(400, 400), "s3://b/b.tif"), measure)
    assert len(measure.asked) == 2
    small = _raster(2 * SIDE, 2 * SIDE)
    assert norms.of(_ref(replace(small, windows=1)), measure) is None
    assert len(measure.asked) == 2
    assert norms.of(_ref(small), measure) is not None
    assert measure.asked[-1] == [Window(0, 0, 2 * SIDE, 2 * SIDE)]


def test_where_nothing_could_be_read_windows_have_their_own_for_good(tmp_path: Path) -> None:
    store, nothing, later = Store.open(str(tmp_path)), Measured(0, size=0), Measured(1)
    ref = _ref(_raster(400, 400))
    assert RasterNorms(store, 512 / SIDE).of(ref, nothing) is None
    assert RasterNorms(store, 512 / SIDE).of(ref, later) is None
    assert not later.asked


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store, ref = Store.open(str(tmp_path)), _ref(_raster(400, 400))
    RasterNorms(store, 512 / SIDE).of(ref, Measured(1))
    (info,) = store.list("_norms/")
    store.put(info.key, b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(StoreError, match=rf"{info.key} is damaged .*; remove it and run the job again"):
        RasterNorms(store, 512 / SIDE).of(ref, Measured(1))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster wide enough to be looked at as a whole, dark on the left and bright on the right."""
    folder = tmp_path_factory.mktemp("wide")
    image = picture(2, 320, 1400).astype(np.float32) * np.linspace(0.2, 1, 1400, dtype=np.float32)[:, None]
    write_raster(folder / "wide.tif", np.ascontiguousarray(image.astype(np.uint8).transpose(2, 0, 1)))
    return folder


def test_rows_do_not_depend_on_who_looks_first(wide: Path, tmp_path: Path) -> None:
    tiny = tiny_weights(tmp_path)
    rows = []
    for name, order in (("a", list), ("b", lambda shards: random.Random(3).sample(shards, len(shards)))):
        tiling = Tiling(size=160, overlap=32, scale=2)
        job = tiled_job(wide, tmp_path / name, tiny, shard_size=3, tiling=tiling)
        job.do(order=order)
        rows.append(job.rows())
        assert len(list(job.windows.list("_norms/"))) == 1
    assert rows[0] == rows[1]
    assert rows[0][1]


def test_an_area_is_not_read_twice_for_its_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    write_noise(tmp_path / "in" / "noise.tif", 2048, 64)
    with rasterio.open(tmp_path / "in" / "noise.tif") as raster:
        corners = [raster.transform @ at for at in ((600, 600), (1000, 600), (1000, 1000), (600, 600))]
        crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{raster.crs.to_epsg()}"}}
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [corners], "crs": crs}))
    read: list[int] = []
    get_range = Store.get_range

    def counted(self: Store, key: str, *arguments: Any, **named: Any) -> bytes:
        data = get_range(self, key, *arguments, **named)
        read.append(len(data))
        return data

    monkeypatch.setattr(Store, "get_range", counted)
    bytes_read = {}
    for norms in ("window", "raster"):
        tiling = Tiling(size=256, overlap=32, scale=4, norms=norms)
        source = InputSource(str(tmp_path / "in"), area=str(area))
        job = tiled_job(source, tmp_path / norms, tiny_weights(tmp_path), tiling=tiling)
        read.clear()
        job.do()
        bytes_read[norms] = sum(read)
    assert len(list(job.windows.list("_norms/"))) == 1
    assert 0 < bytes_read["raster"] < 1.1 * bytes_read["window"]


def test_windows_have_their_own_when_asked(wide: Path, tmp_path: Path) -> None:
    tiny = tiny_weights(tmp_path)
    rows = []
    for norms in ("raster", "window"):
        tiling = Tiling(size=160, overlap=32, scale=2, norms=norms)
        job = tiled_job(wide, tmp_path / norms, tiny, tiling=tiling)
        job.do()
        rows.append(job.run.instances())
    assert not list(job.windows.list("_norms/"))
    assert rows[0]["score"].to_pylist() != rows[1]["score"].to_pylist()
