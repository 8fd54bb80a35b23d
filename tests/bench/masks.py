"""The mask stage alone: low-resolution logits to RLE, against full-frame masks encoded by pycocotools.

`make bench BENCH=masks`, or for some cases only `python -m tests.bench.masks 100-small 100-large`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor

from condinst.instances import RleMasks
from condinst.masks import full_size_masks
from tests.bench import harness
from tests.bench.reference import encode_full_frame, full_frame_masks


@dataclass(frozen=True)
class Case:
    """Ellipses on one image: how many, of which mean area in output pixels, and how the image was resized."""

    name: str
    count: int
    area: int
    resized: tuple[int, int]
    size: tuple[int, int]
    chunk: int
    """Masks that the baseline works on together, for it to fit in memory."""
    repeats: int

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6


CASES = (
    Case("100-small", 100, 10_000, (800, 1088), (800, 1088), chunk=100, repeats=5),
    Case("100-large", 100, 70_000, (800, 1088), (800, 1088), chunk=100, repeats=5),
    Case("300-12mp", 300, 140_000, (800, 1067), (3000, 4000), chunk=30, repeats=2),
)


def ellipses(case: Case) -> Tensor:
    """Logits of turned ellipses inside the frame, with edges some cells wide and noise, always the same."""
    rng = np.random.default_rng(0)
    h4, w4 = -(-case.resized[0] // 32) * 8, -(-case.resized[1] // 32) * 8
    y, x = np.mgrid[2 : 4 * h4 : 4, 2 : 4 * w4 : 4].astype(np.float32)
    scale = case.resized[0] / case.size[0]
    logits = np.empty((case.count, h4, w4), dtype=np.float32)
    for i in range(case.count):
        area = case.area * scale**2 * rng.uniform(0.5, 1.5)
        aspect, angle = rng.uniform(1, 2), rng.uniform(0, np.pi)
        long, short = np.sqrt(area * aspect / np.pi), np.sqrt(area / aspect / np.pi)
        centre = [rng.uniform(min(long, side / 2), max(side - long, side / 2)) for side in case.resized]
        dy, dx = y - centre[0], x - centre[1]
        along = (dx * np.cos(angle) + dy * np.sin(angle)) / long
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / short
        # Distance to the edge in cells, roughly: a logit grows by about one a cell and levels off.
        distance = (1 - np.hypot(along, across)) * short / 4
        logits[i] = 10 * np.tanh(distance / 6) + rng.normal(0, 0.2, (h4, w4))
    return torch.from_numpy(logits)


def baseline(case: Case, logits: Tensor) -> list[bytes]:
    """Full-frame RLE by way of full-frame masks."""
    counts = []
    with torch.inference_mode():
        for part in logits.split(case.chunk):
            counts += encode_full_frame(full_frame_masks(part, case.resized, case.size))
    return counts


def ours(case: Case, logits: Tensor) -> RleMasks:
    return full_size_masks(logits, case.resized, case.size)


def prepare(way: Callable[[Case, Tensor], object], case: Case) -> Callable[[], object]:
    logits = ellipses(case)
    little = logits[:1, :8, :8]
    way(Case("little", 1, 0, (32, 32), (32, 32), 1, 1), little)
    return lambda: way(case, logits)


def differing_pixels(case: Case, masks: RleMasks, want: list[bytes]) -> int:
    """Pixels in which crops, put into the frame, differ from full-frame masks."""
    differing = 0
    for got, expected in zip(masks.frames(case.size), want, strict=True):
        if got != expected:
            pair = [coco.decode({"size": list(case.size), "counts": item}) for item in (got, expected)]
            differing += int((pair[0] != pair[1]).sum())
    return differing


def run(case: Case) -> dict[str, object]:
    logits = ellipses(case)
    masks, want = RleMasks.empty(), list[bytes]()

    def slow() -> None:
        nonlocal want
        want = baseline(case, logits)

    def fast() -> None:
        nonlocal masks
        masks = ours(case, logits)

    baseline_time, our_time = harness.measure_pair(slow, fast, case.repeats)
    memory = [harness.memory_peak(prepare, way, case) for way in (baseline, ours)]
    return {
        "ratio": round(baseline_time.median / our_time.median, 1),
        "baseline": baseline_time.figures(),
        "ours": our_time.figures(),
        "baseline_peak_mb": round(memory[0] / 1e6, 1),
        "ours_peak_mb": round(memory[1] / 1e6, 1),
        "memory_ratio": round(memory[0] / max(memory[1], 1), 1),
        "megapixels_compared": round(case.count * case.megapixels, 1),
        "pixels_differing": differing_pixels(case, masks, want),
        "mean_area": round(float(masks.area.mean())),
        "instances": case.count,
        "size": list(case.size),
    }


def main() -> None:
    wanted = sys.argv[1:] or [case.name for case in CASES]
    results: dict[str, dict[str, object]] = {}
    for case in CASES:
        if case.name in wanted:
            results[case.name] = run(case)
            print(case.name, results[case.name], flush=True)
    small = [float(result["ratio"]) for name, result in results.items() if name.startswith("100-")]
    harness.report("masks", min(small, default=None), {"cases": results})


if __name__ == "__main__":
    main()
