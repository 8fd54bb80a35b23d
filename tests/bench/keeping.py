"""What a worker on a processor gains by keeping memory (`pipeline.settings.KEEPS_MEMORY`), and what it holds.

CondInst R50 in the precision that is quickest here, image to 100 RLEs, in processes of their own with and
without the variables, in turn, in a thread as a worker's: batches of eight images of 800x1088, and batches of
one to eight images of 200 to 1,300 pixels a side, by the demo model. `make bench BENCH=keeping`; the ratio is
of the seconds of an image of the former.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import torch

import condinst
from condinst.config import DetectConfig
from condinst.precision import quickest_precision
from pipeline.settings import KEEPS_MEMORY
from tests.bench.harness import Timing, report
from tests.bench.model import INSTANCES, THRESHOLD, diamonds, picture

BATCH, BATCHES, ROUNDS = 8, 4, 3
MIXED = 80


def alike() -> list[float]:
    """Seconds an image of batches of one size, after one that does not count."""
    model = diamonds().optimize_for_inference(quickest_precision("cpu"))
    batch = [model.prepare(picture())] * BATCH
    detect = DetectConfig(candidate_threshold=THRESHOLD, max_instances=INSTANCES)
    ends = [time.perf_counter()]
    for _ in range(BATCHES + 1):
        model.predict_prepared(batch, detect)
        ends.append(time.perf_counter())
    return (np.diff(ends)[1:] / BATCH).tolist()


def mixed() -> list[float]:
    """Seconds a megapixel of batches of many sizes."""
    model = condinst.load("demo", precision=quickest_precision("cpu"))
    rng, pixels, began = np.random.default_rng(0), 0, time.perf_counter()
    for _ in range(MIXED):
        height, width, images = (int(x) for x in (*rng.integers(200, 1300, 2), rng.integers(1, BATCH + 1)))
        image = model.prepare(rng.integers(0, 255, (height, width, 3), np.uint8))
        model.predict_prepared([image] * images)
        pixels += height * width * images
    return [(time.perf_counter() - began) / pixels * 1e6]


CASES = {"alike": alike, "mixed": mixed}


def inside(case: str) -> None:
    """Print what a case took in this process, and the most memory that it held."""
    found: list[float] = []

    def run() -> None:
        torch.set_num_threads(2)
        found.extend(CASES[case]())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def outside(case: str, keeps: bool) -> tuple[list[float], float]:
    """The same of a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in KEEPS_MEMORY}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.keeping", case],
        env=environment | (KEEPS_MEMORY if keeps else {}),
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    """Measure and print."""
    figures: dict[str, object] = {"precision": quickest_precision("cpu"), "batch": BATCH}
    ratios = []
    for case in CASES:
        rounds = [[outside(case, keeps) for keeps in (False, True)] for _ in range(ROUNDS)]
        timings = [
            Timing(tuple(one for seconds, _ in own for one in seconds)) for own in zip(*rounds, strict=True)
        ]
        peaks = [max(peak for _, peak in own) for own in zip(*rounds, strict=True)]
        ratios.append(timings[0].median / timings[1].median)
        figures[case] = {
            "ratio": round(ratios[-1], 2),
            "given_back": timings[0].figures() | {"peak_mib": round(peaks[0])},
            "kept": timings[1].figures() | {"peak_mib": round(peaks[1])},
        }
        print(case, figures[case], flush=True)
    report("keeping", ratios[0], figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        inside(sys.argv[1])
    else:
        main()
