"""Stitching of generated ellipses on a huge raster: seconds and memory by the number of instances.

Processor time stands beside the clock's, for a machine that does other work meanwhile.

    make bench BENCH=stitch            10,000, 100,000 and 1 million instances
    .venv/bin/python -m tests.bench.stitch 10000 20000

Ellipses stand on a lattice of 40 pixels, close enough to touch, every hundredth up to 300 pixels long.
Windows of 1024 pixels overlap by 128. Each sees an ellipse anew: moved by up to a pixel, missed at times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from condinst.instances import Instances
from pipeline.records import Window
from pipeline.stitch import Stitcher, Windows, ordered
from pipeline.stitch.fragments import Fragments
from pipeline.stitch.overlap import crops
from pipeline.stitch.regions import Regions, masks_of, restrict
from tests.bench import harness

SIZES = (10_000, 100_000, 1_000_000)
WINDOW, OVERLAP, PITCH = 1024, 128, 40
MISSED = 0.02
MARGIN = 200
"""Rows of pixels above and below a window within which ellipses that reach into it stand."""


@dataclass(frozen=True)
class Raster:
    """Ellipses in a square, and the windows over it."""

    columns: int
    centre: np.ndarray
    half: np.ndarray
    windows: Windows

    @staticmethod
    def of(count: int) -> Raster:
        rng = np.random.default_rng(count)
        columns = int(np.ceil(count**0.5))
        at = np.stack(np.divmod(np.arange(count), columns), axis=1)[:, ::-1]
        centre = (at + 0.5) * PITCH + rng.uniform(-6, 6, (count, 2))
        half = rng.uniform(9, 22, (count, 2))
        half[rng.random(count) < 0.01] *= 6.5
        side = max(columns * PITCH, WINDOW)
        starts = [*range(0, side - WINDOW, WINDOW - OVERLAP), side - WINDOW]
        windows = [Window(x, y, WINDOW, WINDOW) for y in starts for x in starts]
        return Raster(columns, centre, half, Windows.of(windows))

    def segmented(self, number: int) -> Instances:
        """What is found in one window, in its own pixels."""
        rng = np.random.default_rng(number)
        left, top, right, bottom = self.windows.rects[number].tolist()
        first, last = (max(row // PITCH, 0) * self.columns for row in (top - MARGIN, bottom + MARGIN))
        rows = slice(first, last)
        reach = self.half[rows] + 2
        seen = (self.centre[rows] + reach > (left, top)) & (self.centre[rows] - reach < (right, bottom))
        which = first + np.flatnonzero(seen.all(axis=1))
        which = which[rng.random(len(which)) >= MISSED]
        centre = self.centre[which] - (left, top) + rng.integers(-1, 2, (len(which), 2))
        masks = masks_of(restrict(_ellipses(centre, self.half[which]), _frame(len(which))))
        kept = masks.area > 12
        scores = 0.5 + (which[kept] * 7919 % 4999) / 1e4 + rng.normal(0, 0.01, kept.sum())
        masks = masks[kept]
        classes = np.zeros(len(masks), np.int64)
        return Instances(crops(masks).astype(np.float32), scores.astype(np.float32), classes, masks)


def _frame(count: int) -> np.ndarray:
    return np.tile(np.array([0, 0, WINDOW, WINDOW]), (count, 1))


def _ellipses(centre: np.ndarray, half: np.ndarray) -> Regions:
    """Pixels whose middles lie inside."""
    first = np.ceil(centre[:, 0] - half[:, 0] - 0.5).astype(np.int64)
    columns = np.floor(centre[:, 0] + half[:, 0] - 0.5).astype(np.int64) - first + 1
    owner = np.repeat(np.arange(len(centre)), columns)
    x = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(columns) - columns, columns)
    share = np.clip(1 - ((x + 0.5 - centre[owner, 0]) / half[owner, 0]) ** 2, 0, None)
    tall = half[owner, 1] * np.sqrt(share)
    top = np.ceil(centre[owner, 1] - tall - 0.5).astype(np.int64)
    bottom = np.floor(centre[owner, 1] + tall - 0.5).astype(np.int64) + 1
    some = top < bottom
    bounds = np.append(0, np.cumsum(np.bincount(owner[some], minlength=len(centre))))
    return Regions(bounds, x[some], top[some], bottom[some])


def run(count: int) -> dict[str, float]:
    """Stitch a raster of so many ellipses; only the stitching is timed."""
    raster = Raster.of(count)
    stitcher = Stitcher(raster.windows)
    parts, fragments, held, seconds, busy = [], 0, 0, 0.0, 0.0
    for number in range(len(raster.windows)):
        found = raster.segmented(number)
        fragments += len(found)
        began, at = time.perf_counter(), time.process_time()
        parts.append(stitcher.add(number, found))
        seconds, busy = seconds + time.perf_counter() - began, busy + time.process_time() - at
        held = max(held, stitcher.held)
    began, at = time.perf_counter(), time.process_time()
    instances = ordered(Fragments.concatenate([*parts, stitcher.finish()]))
    seconds, busy = seconds + time.perf_counter() - began, busy + time.process_time() - at
    return {
        "ellipses": count,
        "windows": len(raster.windows),
        "fragments": fragments,
        "instances": len(instances),
        "most_held": held,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "cpu_microseconds_an_instance": round(busy / count * 1e6, 1),
    }


def _drained(raster: Raster) -> None:
    """The same, with what is settled thrown away at once: memory is then what stitching itself needs."""
    stitcher = Stitcher(raster.windows)
    for number in range(len(raster.windows)):
        stitcher.add(number, raster.segmented(number))
    stitcher.finish()


def _prepared(count: int):
    return partial(_drained, Raster.of(count))


def main() -> None:
    """Print a line a size, then the JSON; the ratio is of processor time an instance, largest to smallest."""
    harness.scaling("stitch", SIZES, run, _prepared, lambda row: row["cpu_microseconds_an_instance"])


if __name__ == "__main__":
    main()
