"""Windows of a raster on an S3 server: only their blocks are sent, asked for as the job's options say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import Window as GdalWindow

from pipeline.geo.aoi import Area
from pipeline.geo.reader import Raster, Rasters
from pipeline.objects import Changed, NotFound, StoreOptions
from pipeline.records import Window
from pipeline.storage import Store
from tests.counting import Counter, counting
from tests.rasters import write_noise

SIDE = 8448
BLOCK = 256


@pytest.fixture
def counter(s3_bucket: str, s3_endpoint: str) -> Iterator[Counter]:
    with counting(s3_endpoint) as counter:
        yield counter


@pytest.fixture
def cog(tmp_path: Path, s3_bucket: str) -> Path:
    path = tmp_path / "large.tif"
    write_noise(path, SIDE, BLOCK)
    boto3.client("s3").upload_file(str(path), s3_bucket[5:], "scenes/large.tif")
    return path


def test_an_area_of_a_hundredth_reads_under_three_hundredths(
    cog: Path, counter: Counter, s3_bucket: str
) -> None:
    size = cog.stat().st_size
    assert size > 200_000_000
    store = Store.open(f"{s3_bucket}/scenes", StoreOptions(endpoint=counter.url))
    rasters = Rasters()
    raster = rasters.get(store, "large.tif")
    assert counter.bytes < 2_000_000  # the header, however large the raster
    georef = raster.header.georef
    assert georef is not None
    side = SIDE // 10
    west, north = georef.ground(np.float64(3210), np.float64(2345))
    ground = shapely.box(west, north - side * 0.1, west + side * 0.1, north)
    area = Area(ground, "EPSG:32635").on_raster(georef, SIDE, SIDE)
    assert area is not None
    assert area.shape.area == pytest.approx(SIDE * SIDE / 100, rel=0.01)
    grid, numbers = area.windows(512, 64)

    def same(number: int) -> bool:
        window = grid[number]
        with rasterio.open(cog) as source:
            where = GdalWindow(window.x, window.y, window.width, window.height)
            return bool((raster.read((1, 2, 3), window).samples == source.read(window=where)).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, numbers.tolist()))
    rasters.close()
    assert counter.bytes < 0.03 * size


def test_requests_are_made_as_the_options_say(tmp_path: Path, counter: Counter, s3_bucket: str) -> None:
    path = tmp_path / "small.tif"
    write_noise(path, 1024, BLOCK)
    boto3.client("s3").upload_file(str(path), s3_bucket[5:], "a b/small #1.tif")
    rasters = Rasters()

    def read(**options: bool) -> Raster:
        store = Store.open(s3_bucket, StoreOptions(endpoint=counter.url, **options))
        raster = rasters.get(store, "a b/small #1.tif")
        assert raster.read((1, 2, 3), Window(300, 400, 500, 500)).valid.all()
        return raster

    read()
    assert all("authorization" in headers for headers in counter.headers)
    requests = len(counter.headers)
    assert requests <= 8  # what says what it is, the header, and a request a row of blocks
    read()
    assert len(counter.headers) == requests  # the raster is open, its blocks are here
    counter.headers.clear()
    read(requester_pays=True)
    assert {headers.get("x-amz-request-payer") for headers in counter.headers} == {"requester"}
    with pytest.raises(NotFound, match=r"a b/gone\.tif does not exist"):
        rasters.get(Store.open(s3_bucket, StoreOptions(endpoint=counter.url)), "a b/gone.tif")
    rasters.close()


def test_no_byte_is_taken_of_an_object_put_in_a_rasters_place(
    cog: Path, tmp_path: Path, s3_bucket: str
) -> None:
    store = Store.open(f"{s3_bucket}/scenes")
    etag = store.head("large.tif").etag
    rasters = Rasters()
    assert rasters.get(store, "large.tif", etag).read((1,), Window(0, 0, 99, 99)).valid.all()
    data = bytearray(cog.read_bytes())
    data[-1] ^= 1
    for body in (bytes(data), bytes(data[:100_000])):
        store.put("large.tif", body)
        with pytest.raises(Changed, match="change"):
            rasters.get(store, "large.tif", etag).read((1,), Window(8000, 8000, 99, 99))
    rasters.close()
