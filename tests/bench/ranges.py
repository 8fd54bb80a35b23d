"""An area of 1 % of a 1 GB GeoTIFF on an S3 server, and all windows of a quarter: bytes, requests, seconds.

`python -m tests.bench.ranges`, or with another side in pixels. The server is moto's, in its own process.
"""

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import shapely

from pipeline.geo.aoi import RasterArea
from pipeline.geo.reader import Raster, Rasters
from pipeline.geo.windows import Grid, windows
from pipeline.objects import StoreOptions
from pipeline.records import Window
from pipeline.storage import Store
from tests.bench import harness
from tests.bench.s3 import put_folder, s3_server
from tests.counting import Counter, counting
from tests.rasters import write_noise

SIDE = 18_944
SIZE, OVERLAP, BLOCK = 1024, 128, 512
THREADS = 4


def read(raster: Raster, grid: Grid, numbers: list[int], counter: Counter) -> dict[str, float | int]:
    bytes, requests, began = counter.bytes, len(counter.headers), time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda number: raster.read((1, 2, 3), grid[number]), numbers))
    seconds = time.perf_counter() - began
    return {
        "windows": len(numbers),
        "bytes": counter.bytes - bytes,
        "requests": len(counter.headers) - requests,
        "windows_per_second": round(len(numbers) / seconds, 1),
    }


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else SIDE
    with s3_server() as bucket:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            path = Path(folder) / "large.tif"
            write_noise(path, side, BLOCK)
            size = path.stat().st_size
            put_folder(Path(folder))
        with counting(os.environ["AWS_ENDPOINT_URL"]) as counter:
            rasters = Rasters()
            raster = rasters.get(Store.open(bucket, StoreOptions(endpoint=counter.url)), "large.tif")
            header = counter.bytes
            corner = side * 0.3
            area = RasterArea(shapely.box(corner, corner, corner + side / 10, corner + side / 10), side, side)
            aoi = read(raster, *_listed(area.windows(SIZE, OVERLAP)), counter)
            part = Window(0, side // 2, side // 2, side // 2)
            everything = windows(side, side, SIZE, OVERLAP, part)
            most = read(raster, everything, list(range(len(everything))), counter)
            rasters.close()
    figures = {
        "file_bytes": size,
        "header_bytes": header,
        "aoi": aoi,
        "aoi_share": round((header + int(aoi["bytes"])) / size, 4),
        "quarter": most,
        "quarter_times_its_bytes": round(int(most["bytes"]) / (size / 4), 2),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    harness.report("ranges", None, figures)


def _listed(found: tuple[Grid, object]) -> tuple[Grid, list[int]]:
    grid, numbers = found
    return grid, numbers.tolist()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
