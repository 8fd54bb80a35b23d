"""A sparse COG of 40,000 x 40,000 pixels from end to end on Ray with one worker: memory of each process.

`make bench BENCH=gigapixel`, or `python -m tests.bench.gigapixel SIDE PATCHES` for a smaller one.

The raster is of 5 cm, 1.6 gigapixels: PATCHES places of 1024 x 1024 pixels, spread evenly, hold a generated
field each, all else is nodata that is not even stored. The job plans all windows of 1024 pixels, and segments
those that hold data. Until it ends, resident memory is sampled five times a second: of the driver, the
process that `condinst run` is, of the largest worker, and of the largest process that reads a header for the
driver. Pages of files that are mapped, libraries among them, count.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy as gdal_copy
from rasterio.transform import from_origin
from rasterio.windows import Window

from jobs.scenes import render
from pipeline import tables
from tests.bench import harness
from tests.bench.processes import Memory
from tests.command import COMMAND
from tests.rasters import UTM

SIDE, PATCHES = 40_000, 49
PATCH, BLOCK = 1024, 512
SCENES = 8
"""Fields that differ; patches take them in turn."""
LIMITS_MIB = {"worker": 3 * 1024, "driver": 1.5 * 1024}
SPEC = """
kind: segment
name: gigapixel
input: {{uri: {folder}/in, include: "*.tif"}}
model: {{weights: demo, score_threshold: 0.3, max_instances: 1000, pre_nms_top_k: 10000}}
output: {{uri: {folder}/out}}
tiling: {{size: 1024, overlap: 128}}
batch: {{images: 1}}
shards: {{images: 100}}
workers: {{count: 1, cpus: 1}}
"""


def write_sparse(path: Path, side: int, patches: int) -> None:
    """Write the COG; what no patch touches is neither written nor stored."""
    plain = path.with_suffix(".plain.tif")
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": UTM,
        "transform": from_origin(386_200, 6_471_800, 0.05, 0.05), "nodata": 0, "interleave": "pixel",
        "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "SPARSE_OK": True,
    }  # fmt: skip
    scenes = [np.maximum(render(seed, PATCH, PATCH).image, 1).transpose(2, 0, 1) for seed in range(SCENES)]
    across = math.ceil(patches**0.5)
    with rasterio.open(plain, "w", **profile) as out:
        for number in range(patches):
            row, column = (round((at + 0.5) * side / across - PATCH / 2) for at in divmod(number, across))
            scene = np.ascontiguousarray(scenes[number % SCENES])
            out.write(scene, window=Window(max(0, column), max(0, row), PATCH, PATCH))
        levels = [2**power for power in range(1, 8) if side >> power >= BLOCK]
        out.build_overviews(levels, Resampling.average)
    gdal_copy(plain, path, driver="COG", blocksize=BLOCK, compress="deflate", sparse_ok=True)
    plain.unlink()


def main() -> None:
    """Print the JSON; exits with 1 where a process held more than it may."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else SIDE
    patches = int(sys.argv[2]) if len(sys.argv) > 2 else PATCHES
    with tempfile.TemporaryDirectory(prefix="giga-") as scratch:
        folder = Path(scratch)
        (folder / "in").mkdir()
        raster = folder / "in" / "ortho.tif"
        write_sparse(raster, side, patches)
        (folder / "job.yaml").write_text(SPEC.format(folder=folder))
        print(f"{side} x {side} pixels in {raster.stat().st_size:,} bytes", file=sys.stderr, flush=True)
        began = time.perf_counter()
        run = subprocess.Popen([COMMAND, "run", folder / "job.yaml"], stdout=subprocess.DEVNULL)
        memory = Memory(psutil.Process(run.pid))
        code = run.wait()
        seconds, held = time.perf_counter() - began, memory.stop()
        if code:
            sys.exit(f"condinst run ended with {code}")
        summary = json.loads((folder / "out" / "summary.json").read_text())
        image = tables.open(str(folder / "out")).images().to_pylist()[0]
        size = raster.stat().st_size
    within = {kind: held.get(kind, 0) <= limit for kind, limit in LIMITS_MIB.items()}
    figures = {
        "side": side,
        "file_bytes": size,
        "windows": summary["windows"]["count"],
        "window_statuses": summary["windows"]["statuses"],
        "status": image["status"],
        "instances": image["instances"],
        "seconds": round(seconds, 1),
        "most_mib": held,
        "within_limits": within,
    }
    harness.report("gigapixel", None, figures)
    if not all(within.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
