"""Rasters read by windows: the samples GDAL reads, whoever reads, and nothing that is not asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window as GdalWindow

from pipeline.geo.ranges import PAGE, Pages, Ranged
from pipeline.geo.reader import Raster, Rasters
from pipeline.geo.views import choose_view, view_georef
from pipeline.geo.windows import inside
from pipeline.objects import Changed, Check, Unavailable
from pipeline.records import InputRejected, Status, Window
from pipeline.storage import Store
from tests.rasters import opened, terrain, write_raster
from tests.unit.image_files import tiff_of

COG = {"driver": "COG", "blocksize": 128, "compress": "deflate"}


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 x 900 pixels, 3 bands, overviews of 2, 4 and 8."""
    path = tmp_path_factory.mktemp("cog") / "a b#.tif"
    return write_raster(path, terrain(3, 900, 700), **COG, overview_resampling="nearest")


def expected(path: Path, window: Window, bands: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    with rasterio.open(path) as source:
        where = GdalWindow(window.x, window.y, window.width, window.height)
        found: np.ndarray = source.read(list(bands), window=where, boundless=True, fill_value=0)
        return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-50, 690), st.integers(-50, 890), st.integers(60, 400), st.integers(60, 400))
def test_a_window_holds_what_gdal_reads_and_ends_where_the_raster_does(
    cog: Path, x: int, y: int, width: int, height: int
) -> None:
    pixels = opened(cog).read((1, 2, 3), Window(x, y, width, height))
    part = inside(Window(x, y, width, height), 700, 900)
    assert (pixels.samples == expected(cog, part)).all()
    assert pixels.valid.shape == (part.height, part.width)
    assert pixels.valid.all()


def test_a_window_beside_the_raster_is_refused(cog: Path) -> None:
    with pytest.raises(ValueError, match=r"outside .*a b#\.tif of 700x900"):
        opened(cog).read((1,), Window(700, 0, 10, 10))


def test_threads_read_at_the_same_time_and_any_may_end_first(cog: Path) -> None:
    rasters = Rasters()
    store = Store.open(str(cog.parent))
    windows = [Window(x, y, 200, 200) for x in range(0, 500, 100) for y in range(0, 700, 100)]

    def read(window: Window) -> bool:
        found = rasters.get(store, cog.name).read((1, 2, 3), window).samples
        return bool((found == expected(cog, window)).all())

    for _ in range(2):  # the threads that opened GDAL's datasets are gone when others read and close them
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(read, windows))
    rasters.close()


def test_a_raster_that_is_closed_while_it_is_read_serves_its_readers(cog: Path) -> None:
    raster = opened(cog)
    done = threading.Event()

    def read() -> bool:
        return all(
            (raster.read((1,), Window(0, 0, 99, 99)).samples > 0).all() or done.set() for _ in range(40)
        )

    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(read) for _ in range(4)]
        raster.close()
        assert all(result.result() for result in results)


def test_few_rasters_stay_open_and_all_are_served(tmp_path: Path) -> None:
    for number in range(5):
        write_raster(tmp_path / f"{number}.tif", np.full((1, 64, 64), number + 1, "uint8"))
    rasters = Rasters(most=2)
    store = Store.open(str(tmp_path))
    for number in (0, 1, 2, 3, 4, 0, 4, 2):
        found = rasters.get(store, f"{number}.tif").read((1,), Window(0, 0, 64, 64))
        assert (found.samples == number + 1).all()
    etag = store.head("0.tif").etag
    assert rasters.get(store, "0.tif", etag) is rasters.get(store, "0.tif", etag)
    with pytest.raises(InputRejected, match="changed since the plan") as caught:
        rasters.get(store, "0.tif", "another")
    assert caught.value.status is Status.MISSING
    rasters.close()


class Counting(Store):
    """A folder that counts what leaves it, and can be told to fail."""

    bytes = 0
    failing = False

    def get_range(self, key: str, start: int, length: int, check: Check | None = None) -> bytes:
        if self.failing:
            raise Unavailable("the store is on fire")
        data = super().get_range(key, start, length, check)
        self.bytes += len(data)
        return data


def counted(path: Path) -> tuple[Counting, Raster]:
    store = Counting(Store.open(str(path.parent))._location, Store.open(str(path.parent)).options)
    return store, Raster(Ranged(store, path.name, path.stat().st_size, Pages(1 << 20)))


def test_only_the_blocks_of_a_window_are_read_and_only_once(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "plain.tif", terrain(3, 2048, 2048), tiled=True, blockxsize=256, blockysize=256
    )
    store, raster = counted(path)
    header = store.bytes
    assert header <= 8 * PAGE
    raster.read((1, 2, 3), Window(300, 300, 200, 200))  # within one block
    block = 256 * 256 * 3
    assert block <= store.bytes - header <= block + 2 * PAGE
    before = store.bytes
    raster.read((1, 2, 3), Window(260, 260, 200, 200))
    assert store.bytes == before


def test_a_store_that_fails_is_no_fault_of_the_raster(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "plain.tif", terrain(3, 1024, 1024))
    store, raster = counted(path)
    store.failing = True
    with pytest.raises(Unavailable, match="on fire"):
        raster.read((1, 2, 3), Window(0, 500, 1024, 400))
    store.failing = False
    window = Window(0, 500, 1024, 400)
    assert (raster.read((1, 2, 3), window).samples == expected(path, window)).all()


def test_a_raster_that_shrank_is_said_to_have_changed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "plain.tif", terrain(3, 1024, 1024))
    _, raster = counted(path)
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(Changed, match="changed since it was planned"):
        raster.read((1, 2, 3), Window(0, 900, 100, 100))


def test_no_byte_is_taken_of_a_file_put_in_a_rasters_place(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "plain.tif", terrain(3, 1024, 1024))
    rasters, store = Rasters(), Store.open(str(tmp_path))
    etag = store.head(path.name).etag
    window, other = Window(0, 0, 1024, 200), Window(0, 800, 1024, 200)
    before = rasters.get(store, path.name, etag).read((1, 2, 3), window).samples
    write_raster(tmp_path / "new.tif", terrain(3, 1024, 1024, seed=9)).replace(path)
    assert (rasters.get(store, path.name, etag).read((1, 2, 3), window).samples == before).all(), "it is here"
    for _ in range(2):
        with pytest.raises(Changed, match=rf"changed since the plan \(etag {etag} -> "):
            rasters.get(store, path.name, etag).read((1, 2, 3), other)
    found = rasters.get(store, path.name, store.head(path.name).etag).read((1, 2, 3), other)
    assert (found.samples == expected(path, other)).all()
    rasters.close()


def test_ranges_are_those_of_the_object(tmp_path: Path) -> None:
    data = np.random.default_rng(3).bytes(5 * PAGE + 100)
    (tmp_path / "x").write_bytes(data)
    ranged = Ranged(Store.open(str(tmp_path)), "x", len(data), Pages(3 * PAGE))
    rng = np.random.default_rng(4)
    for _ in range(50):
        starts = rng.integers(0, len(data) + 50, 4).tolist()
        lengths = rng.integers(0, 3 * PAGE, 4).tolist()
        parts = ranged.read_many(list(zip(starts, lengths, strict=True)))
        assert parts == [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        assert ranged[starts[0] : starts[0] + lengths[0]] == data[starts[0] : starts[0] + lengths[0]]


def test_what_holds_no_data_is_not_valid(tmp_path: Path) -> None:
    bands = terrain(3, 64, 64)
    bands[:, :8] = 7
    bands[0, 10, 10] = 7  # one band alone is no nodata
    hole = np.full((64, 64), 255, np.uint8)
    hole[20:30, 20:30] = 0
    rgba = np.concatenate([bands, hole[None]])
    floats = bands.astype("float32")
    floats[1, 40, 40] = np.nan
    cases = {
        "nodata": (write_raster(tmp_path / "a.tif", bands, nodata=7), (bands != 7).any(axis=0)),
        "mask": (write_raster(tmp_path / "b.tif", bands, mask=hole), hole > 0),
        "alpha": (write_raster(tmp_path / "c.tif", rgba, photometric="rgb", alpha="yes"), hole > 0),
        "nan": (write_raster(tmp_path / "d.tif", floats), np.isfinite(floats).all(axis=0)),
        "none": (write_raster(tmp_path / "e.tif", bands), np.ones((64, 64), bool)),
    }
    for name, (path, valid) in cases.items():
        raster = opened(path)
        found = raster.read(raster.header.rgb, Window(0, 0, 64, 64))
        assert (found.valid == valid).all(), name
    part = opened(cases["alpha"][0]).read((1, 2, 3), Window(20, 20, 10, 10))
    assert not part.valid.any()
    assert not part.samples.any()


def test_an_overview_is_read_where_it_has_the_resolution(cog: Path) -> None:
    raster = opened(cog)
    assert raster.header.factors == (2, 4, 8)
    view = choose_view(raster, 0.1)
    assert (view.level, view.width, view.height, view.resampled) == (0, 350, 450, False)
    with rasterio.open(cog, overview_level=0) as source:
        assert (
            raster.read((1, 2, 3), Window(90, 90, 200, 200), view).samples == source.read()[:, 90:290, 90:290]
        ).all()
        georef = view_georef(raster, view)
        assert georef is not None
        assert georef.transform == pytest.approx(tuple(source.transform)[:6])


@pytest.mark.parametrize("resolution", [0.03, 0.07, 0.17, 0.5])
def test_windows_of_any_resolution_agree_where_they_overlap(cog: Path, resolution: float) -> None:
    raster = opened(cog)
    view = choose_view(raster, resolution)
    assert view.resampled
    georef = view_georef(raster, view)
    assert georef is not None
    assert georef.metres(view.width, view.height) == pytest.approx(resolution, rel=0.02)
    size = min(view.width, view.height) // 2
    one = raster.read((1, 2, 3), Window(0, 0, size, size), view)
    other = raster.read((1, 2, 3), Window(size // 3, size // 4, size, size), view)
    shared = size - size // 4, size - size // 3
    assert (one.samples[:, size // 4 :, size // 3 :] == other.samples[:, : shared[0], : shared[1]]).all()


def test_a_resolution_that_cannot_be_had_is_refused(cog: Path, tmp_path: Path) -> None:
    assert choose_view(opened(cog), None) == choose_view(opened(cog), 0.0502) == opened(cog).view
    with pytest.raises(ValueError, match=r"asks for 0\.001 m a pixel; the raster has 0\.05"):
        choose_view(opened(cog), 0.001)
    nowhere = write_raster(tmp_path / "x.tif", terrain(1, 9, 9), crs=None)
    with pytest.raises(ValueError, match="does not say where it lies"):
        choose_view(opened(nowhere), 1.0)


def test_side_files_are_not_looked_for(cog: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(cog.read_bytes())
    (tmp_path / "x.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    (tmp_path / "x.tif.msk").write_bytes(
        write_raster(tmp_path / "m.tif", np.zeros((1, 900, 700), "u1")).read_bytes()
    )
    raster = opened(path)
    assert raster.header.georef is not None
    assert raster.header.georef.crs == "EPSG:32635"
    assert raster.read((1,), Window(0, 0, 99, 99)).valid.all()


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\xff\xd8\xff\xe0 and so on", Status.UNSUPPORTED, "JPEG; rasters read by windows are GeoTIFF"),
        (b"II*\0\x08\0\0\0", Status.CORRUPT, "the file ends before"),
        (tiff_of(t256=0, t257=5), Status.CORRUPT, "0x5 pixels"),
        (tiff_of(t256=60_000, t257=60_000), Status.TOO_LARGE, "gdal_translate -of COG"),
        (tiff_of(t256=500, t257=500, t322=65_536, t323=65_536), Status.TOO_LARGE, "blocks of 65536x65536"),
        (tiff_of(t256=500, t257=500, t262=8), Status.UNSUPPORTED, "CIELab"),
        (tiff_of(t256=500, t257=500, t262=32803), Status.UNSUPPORTED, "photometric interpretation 32803"),
    ],
)
def test_a_header_that_cannot_be_borne_is_refused(
    tmp_path: Path, data: bytes, status: Status, reason: str
) -> None:
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(InputRejected, match=reason) as caught:
        opened(tmp_path / "x.tif")
    assert caught.value.status is status


def test_damaged_blocks_cost_the_windows_that_need_them(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "x.tif",
        terrain(3, 512, 512),
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",
    )
    data = bytearray(path.read_bytes())
    data[-100_000:-50_000] = np.random.default_rng(5).bytes(50_000)  # in the last block
    path.write_bytes(data)
    raster = opened(path)
    assert raster.read((1, 2, 3), Window(0, 0, 250, 250)).valid.all()
    with pytest.raises(InputRejected) as caught:
        raster.read((1, 2, 3), Window(300, 300, 100, 100))
    assert caught.value.status is Status.CORRUPT
    assert raster.read((1, 2, 3), Window(0, 0, 250, 250)).valid.all()
