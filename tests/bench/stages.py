"""CondInst R50 (80 classes) by stage at 800x1088 with 100 instances: parameters, GFLOP, CPU time.

Random weights; the masks of the last stage are the ellipses of the `masks` bench, since random ones are noise
that no image gives.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from condinst.config import DetectConfig, ModelConfig, Precision
from condinst.detect import Detections, detect
from condinst.masks import full_size_masks
from condinst.model import CondInst
from condinst.weights import num_parameters
from tests.bench.harness import measure, report
from tests.bench.masks import CASES, ellipses

SIZE = (800, 1088)
INSTANCES = 100


class Stages:
    """Each stage of one prediction as a function of nothing, on inputs that the stages before it gave."""

    def __init__(self, precision: Precision) -> None:
        torch.manual_seed(0)
        config = ModelConfig(classes=tuple(f"class_{n}" for n in range(80)))
        self.model = CondInst(config)
        self.parameters = num_parameters(config)
        model = self.model.optimize_for_inference(precision)
        x = torch.randn(1, 3, *SIZE).to(dtype=model.head.logits.weight.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        backbone = model.backbone(x)
        pyramid = model.fpn(backbone)
        head, features = model.head(pyramid), model.mask_branch(pyramid)
        settings = DetectConfig(candidate_threshold=0.0, max_instances=INSTANCES)
        found = detect(head, [SIZE], settings)
        assert len(found) == INSTANCES
        generated = model.generate(head, found)
        self.logits = self._logits(features, generated, found)
        shapes = ellipses(CASES[0])
        self.runs: dict[str, Callable[[], object]] = {
            "backbone": lambda: model.backbone(x),
            "FPN": lambda: model.fpn(backbone),
            "head": lambda: model.head(pyramid),
            "mask branch": lambda: model.mask_branch(pyramid),
            "decode + NMS": lambda: detect(head, [SIZE], settings),
            "controller": lambda: model.generate(head, found),
            "mask head": lambda: self._logits(features, generated, found),
            "masks to RLE": lambda: full_size_masks(shapes, SIZE, SIZE),
        }

    def _logits(self, features: Tensor, generated: Tensor, found: Detections) -> Tensor:
        return self.model.mask_logits(features, [INSTANCES], generated, found.positions, found.level)


def gflop(run: Callable[[], object]) -> float:
    """Multiplications and additions of the convolutions and matrix products, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Print a line a stage, then the figures as JSON."""
    figures: dict[str, object] = {}
    with torch.inference_mode():
        exact, half = Stages("float32"), Stages("bfloat16")
        for name, run in exact.runs.items():
            slow, fast = measure(run, 5, 2), measure(half.runs[name], 5, 2)
            figures[name] = {
                "gflop": round(gflop(run), 2),
                "float32_s": round(slow.median, 4),
                "float32_spread": round(slow.spread, 3),
                "bfloat16_s": round(fast.median, 4),
            }
            print(name, figures[name], flush=True)
    report("stages", None, {"parameters": exact.parameters, "stages": figures})


if __name__ == "__main__":
    main()
