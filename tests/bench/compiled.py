"""What `compile: true` gains: CondInst R50 on an image of 800x1088, from pixels to RLEs, beside uncompiled.

    python -m tests.bench.compiled

In the precision that is the machine's quickest, first call with nothing in inductor's cache. Prints one JSON
line; the ratio is of the seconds of an image.
"""

from __future__ import annotations

import os
import tempfile
import time

from condinst.config import DetectConfig
from condinst.precision import quickest_precision
from tests.bench.harness import measure_pair, report
from tests.bench.model import INSTANCES, THRESHOLD, diamonds, picture


def main() -> None:
    """Measure and print."""
    precision, image = quickest_precision("cpu"), picture()
    plain, quick = (diamonds().optimize_for_inference(precision) for _ in range(2))
    detect = DetectConfig(candidate_threshold=THRESHOLD, max_instances=INSTANCES)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        quick.compile_dense()
        began = time.perf_counter()
        quick.predict([image], detect)
        first = time.perf_counter() - began
        before, after = measure_pair(
            lambda: plain.predict([image], detect), lambda: quick.predict([image], detect), 5
        )
    figures = {
        "precision": precision,
        "uncompiled": before.figures(),
        "compiled": after.figures(),
        "first_call_s": round(first, 1),
    }
    report("compiled", before.median / after.median, figures)


if __name__ == "__main__":
    main()
