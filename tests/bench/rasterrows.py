"""Rows of one raster with many instances: from what was stitched to the one Parquet file, and its memory.

    make bench BENCH=rasterrows        10,000, 100,000 and 1 million instances
    .venv/bin/python -m tests.bench.rasterrows 10000 20000

Each size is a process of its own. Ellipses as in the bench of stitching go through the spool on the local
disk, are put in the order of rows, get their polygons in UTM, and are written. `memory_mib` is what that
process grew by at its peak, the file itself among it; `file_mib` is the file.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from pipeline.geo.georef import Georef
from pipeline.records import ImageRef
from pipeline.stitch.fragments import moved
from pipeline.tiled.spool import Spool
from pipeline.tiled.tablewriter import InstancesFile
from tests.bench import harness
from tests.bench.stitch import SIZES, Raster
from tests.rasters import NORTH_UP, UTM

GEOREF = Georef(UTM, (NORTH_UP.a, NORTH_UP.b, NORTH_UP.c, NORTH_UP.d, NORTH_UP.e, NORTH_UP.f))
REF = ImageRef(image_id="ortho.tif", uri="/ortho.tif", source=0)


def written(count: int) -> dict[str, float]:
    """Write about so many instances, those that windows side by side see; what is timed is all of it."""
    raster, began, at = Raster.of(count), time.perf_counter(), time.process_time()
    side = int(raster.windows.rects.max())
    file = InstancesFile(["thing"], UTM, {})
    with Spool() as spool:
        for number, (left, top, *_) in enumerate(raster.windows.rects.tolist()):
            found = moved(raster.segmented(number), left, top)
            spool.add(found, np.zeros(len(found), np.int64))
        for found in spool.rows(0):
            file.add(REF, (side, side), found, file.rows, GEOREF)
    data = file.close()
    return {
        "instances": file.rows,
        "file_mib": round(len(data) / 2**20, 1),
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - at, 2),
    }


def _prepared(count: int):
    Raster.of(1)  # what is imported and allocated once is no part of it
    written(100)
    return partial(written, count)


def _each(row: dict[str, float]) -> float:
    return row["cpu_seconds"] / row["instances"]


def main() -> None:
    """Print a line a size, then the JSON; the ratio is of processor time an instance, largest to smallest."""
    harness.scaling("rasterrows", SIZES, written, _prepared, _each)


if __name__ == "__main__":
    main()
