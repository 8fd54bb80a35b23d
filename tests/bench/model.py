"""CondInst R50 (80 classes), image to RLE at 800x1088 with 100 instances, against the reference procedure.

Both have the same random weights, with a controller whose networks draw a diamond around their location, so
that masks have the shape of objects and not of noise. `make bench BENCH=model`. With `--device cuda`, and
perhaps a batch's number of images as `--batch`, it is `tests.bench.gpu_model` instead.
"""

import argparse
from functools import partial

import numpy as np
import torch
from pycocotools import mask as coco

from condinst.config import DetectConfig, ModelConfig
from condinst.instances import Instances
from condinst.model import CondInst
from tests.bench.harness import measure_pair, report
from tests.bench.procedure import Found, reference
from tests.bench.profiling import shares

SIZE = (800, 1088)
INSTANCES = 100
THRESHOLD = 0.0
REPEATS = 5


def diamonds() -> CondInst:
    """Random weights; each instance's network draws a diamond as wide as twice its size of interest."""
    torch.manual_seed(0)
    model = CondInst(ModelConfig(classes=tuple(f"class_{n}" for n in range(80)))).eval()
    head, config = model.head, model.config.mask
    assert head.controller.bias is not None
    layers = [torch.zeros(out, inp) for out, inp in config.layer_shapes]
    biases = [torch.zeros(out) for out, _ in config.layer_shapes]
    for channel, (axis, sign) in enumerate([(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)]):
        layers[0][channel, axis] = sign
    layers[1][0, :4] = 1.0
    layers[2][0, 0], biases[2][0] = -20.0, 20.0
    torch.nn.init.normal_(head.controller.weight, std=0.002)
    head.controller.bias.data = torch.cat([t.flatten() for t in (*layers, *biases)])
    torch.nn.init.normal_(head.logits.weight, std=0.05)
    torch.nn.init.constant_(head.distances.bias, 2.0)
    return model


def picture() -> np.ndarray:
    """Smooth noise, uint8 (800, 1088, 3)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 25, 34)))
    fine = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic")[0].permute(1, 2, 0)
    return (fine.numpy() + rng.normal(0, 8, (*SIZE, 3))).clip(0, 255).astype(np.uint8)


def differences(want: Found, got: Instances) -> dict[str, object]:
    """How far our instances are from the reference's, matched by order of score."""
    pixels = sum(
        int(
            (
                coco.decode({"size": list(SIZE), "counts": a})
                != coco.decode({"size": list(SIZE), "counts": b})
            ).sum()
        )
        for a, b in zip(got.masks.frames(SIZE), want.counts, strict=True)
        if a != b
    )
    return {
        "instances": len(got),
        "mean_area": round(float(got.masks.area.mean())),
        "largest_score_difference": float(np.abs(got.scores - want.scores).max()),
        "largest_box_difference_px": float(np.abs(got.boxes - want.boxes).max()),
        "classes_equal": bool((got.classes == want.classes).all()),
        "share_of_pixels_differing": pixels / (len(got) * SIZE[0] * SIZE[1]),
    }


def main() -> None:
    """Measure on the device that the command line names."""
    options = argparse.ArgumentParser()
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument("--batch", type=int, default=32)
    given = options.parse_args()
    if given.device == "cuda":
        from tests.bench.gpu_model import (
            run as run_on_gpu,  # needs the pipeline, which not all who import this have
        )

        run_on_gpu(diamonds, diamonds().prepare(picture()), given.batch)
    else:
        on_cpu()


def on_cpu() -> None:
    """Print float32 and bfloat16 against the reference; the ratio of the last line is bfloat16's."""
    image, plain = picture(), diamonds()
    detect = DetectConfig(candidate_threshold=THRESHOLD, max_instances=INSTANCES)
    want = reference(plain, image, THRESHOLD, INSTANCES)
    figures: dict[str, object] = {}
    ratios = {}
    for precision in ("float32", "bfloat16"):
        model = diamonds().optimize_for_inference(precision)  # type: ignore[arg-type]
        predict = partial(model.predict, [image], detect)
        got = predict()[0]
        slow, fast = measure_pair(partial(reference, plain, image, THRESHOLD, INSTANCES), predict, REPEATS)
        ratios[precision] = slow.median / fast.median
        figures[precision] = {
            "ratio": round(ratios[precision], 2),
            "reference": slow.figures(),
            "ours": fast.figures(),
            "profile": shares(predict),
        }
        if precision == "float32":
            figures["same_outputs"] = differences(want, got)
            print("outputs", figures["same_outputs"])
        print(precision, figures[precision], flush=True)
    report("model", ratios["bfloat16"], figures)


if __name__ == "__main__":
    main()
