"""What `torch.compile` would gain: the convolutions of CondInst R50 on an image of 800x1088, beside eager.

    python -m tests.bench.compiled

Runs do not compile yet. Prints one JSON line; the ratio is of the seconds of an image.
"""

from __future__ import annotations

import time

import torch

from condinst.preprocess import to_batch
from tests.bench.harness import measure_pair, report
from tests.bench.model import diamonds, picture


def main() -> None:
    """Measure and print."""
    model = diamonds().optimize_for_inference()
    x = to_batch([model.prepare(picture())], model.config.input, model.device)
    with torch.inference_mode():
        compiled = torch.compile(model.dense, dynamic=False)
        began = time.perf_counter()
        compiled(x)
        compiling = time.perf_counter() - began
        eager, quick = measure_pair(lambda: model.dense(x), lambda: compiled(x), 5)
        pairs = zip(model.dense(x).head.logits, compiled(x).head.logits, strict=True)
        off = max(float((a - b).abs().max()) for a, b in pairs)
    figures = {
        "eager": eager.figures(),
        "compiled": quick.figures(),
        "first_call_s": round(compiling, 1),
        "largest_logit_difference": off,
    }
    report("compiled", eager.median / quick.median, figures)


if __name__ == "__main__":
    main()
