"""A generated orthomosaic as one raster, and cut into four that overlap (`deduplicate: across_rasters`).

`make bench BENCH=mosaic`, or `python -m tests.bench.mosaic 1 2 3` for other scenes. Prints, for each and
for all together, how many instances the single raster has and how many the four have, then how many of those
with a score of at least 0.05 over the threshold have no partner (IoU 0.5) on the other side.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from condinst.instances import Instances
from jobs.scenes import render
from pipeline.stitch.fragments import concatenated, moved, pick
from pipeline.stitch.seams import Seams, compare
from pipeline.tiled.found import instances_of
from pipeline.tiled.settings import Tiling
from tests.bench import harness
from tests.rasters import NORTH_UP, write_raster
from tests.tiled import TiledJob, tiled_job

SCENES = range(1, 15)
THRESHOLD, SPARED = 0.3, 0.05


@dataclass(frozen=True)
class Mosaic:
    """What was found in a scene as one raster and as four."""

    whole: Instances
    parts: Instances

    @property
    def compared(self) -> Seams:
        """The two held against each other, without instances near the score threshold."""
        return compare(self.whole, self.parts, np.zeros((0, 4), np.int64), THRESHOLD, SPARED)


def quarters(image: np.ndarray, folder: Path, overlap: int) -> None:
    """Write an image (bands, height, width) as four GeoTIFFs that overlap by so many pixels."""
    height, width = (side // 2 for side in image.shape[1:])
    half = overlap // 2
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        top, left = row * (height - half), column * (width - half)
        part = image[:, top : top + height + half, left : left + width + half]
        place = from_origin(NORTH_UP.c + left * NORTH_UP.a, NORTH_UP.f + top * NORTH_UP.e, 0.05, 0.05)
        write_raster(folder / f"{number}.tif", part, transform=place)


def segmented(folder: Path, seed: int, side: int, overlap: int, tiling: Tiling) -> Mosaic:
    """A generated scene of `side` x `side` pixels segmented both ways by the demo model."""
    image = np.ascontiguousarray(render(seed, side, side).image.transpose(2, 0, 1))
    for name in ("whole", "parts"):
        (folder / name).mkdir()
    write_raster(folder / "whole" / "ortho.tif", image)
    quarters(image, folder / "parts", overlap)
    return Mosaic(*(_found(folder, name, tiling) for name in ("whole", "parts")))


def _found(folder: Path, name: str, tiling: Tiling) -> Instances:
    detect = {"score_threshold": THRESHOLD}
    job = tiled_job(folder / name, folder / f"out-{name}", tiling=tiling, detect=detect, batch_images=1)
    job.do()
    return on_one_grid(job)


def on_one_grid(job: TiledJob) -> Instances:
    """All instances of a job, in pixels from the top left that `quarters` begins at."""
    rows = job.run.instances()
    found, ids = instances_of(rows), np.array(rows["image_id"].to_pylist())
    parts = []
    for row in job.run.images().to_pylist():
        column, line = (round(at) for at in ~NORTH_UP @ (row["transform"][2], row["transform"][5]))
        parts.append(moved(pick(found, ids == row["image_id"]), column, line))
    return concatenated(parts)


def main() -> None:
    scenes = [int(scene) for scene in sys.argv[1:]] or SCENES
    tiling = Tiling(size=256, overlap=64, across_rasters=True)
    total: Counter[str] = Counter()
    for seed in scenes:
        with tempfile.TemporaryDirectory(prefix="mosaic-") as scratch:
            mosaic = segmented(Path(scratch), seed, 640, 96, tiling)
        sides = mosaic.compared
        row = {
            "whole": len(mosaic.whole),
            "parts": len(mosaic.parts),
            "only_whole": sides.reference.alone_elsewhere,
            "only_parts": sides.tiled.alone_elsewhere,
        }
        total.update(row)
        print(seed, row, flush=True)
    harness.report("mosaic", total["parts"] / total["whole"], {"scenes": len(scenes), **total})


if __name__ == "__main__":
    main()
