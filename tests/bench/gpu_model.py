"""CondInst R50 on one GPU: images a second from prepared pixels to RLE, as a worker runs it.

`python -m tests.bench.model --device cuda [--batch 32]`: images of 800x1088 with 50 instances each, in
bfloat16 (float16 before compute capability 8) and batches, through the threads of a worker; beside that one
image at a time in float32; and the share of what the card's matrix units could do at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from pycocotools import mask as coco
from torch.utils.flop_counter import FlopCounterMode

from condinst.compiled import CompileError
from condinst.config import DetectConfig
from condinst.instances import Instances, RleMasks
from condinst.masks import full_size_masks, mask_changes
from condinst.model import CondInst
from condinst.precision import quickest_precision
from condinst.preprocess import Prepared
from pipeline.clock import Clock
from pipeline.inference import Inference
from pipeline.worker import MOST_ENCODERS
from tests.bench.harness import Timing, measure, report
from tests.bench.masks import CASES, ellipses
from tests.bench.profiling import device_shares

INSTANCES = 50
BATCHES = 12
REPEATS = 5
CEILINGS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "V100": 125,
    "T4": 65,
}
"""Dense TFLOP/s in bfloat16, of cards without it in float16, as NVIDIA states them; the first that fits."""


def ceiling(card: str) -> int | None:
    """TFLOP/s of a card by the name that torch gives it; None for one that is not listed."""
    return next((most for name, most in CEILINGS.items() if name in card), None)


def run(make: Callable[[], CondInst], image: Prepared, size: int) -> None:
    """Print what one GPU does with a model; the ratio is of images a second, batches over one at a time."""
    card, precision = torch.cuda.get_device_name(), quickest_precision("cuda")
    # So many instances an image, whatever the random weights say, and all of them with their masks.
    detect = DetectConfig(candidate_threshold=0.0, max_instances=INSTANCES)
    torch.backends.cudnn.allow_tf32 = False
    model = make().optimize_for_inference("float32").to("cuda")
    few = [image, *sizes_of_their_own(image, 3)]
    agreement = agreeing(model.predict_prepared(few, detect), make(), few, detect)
    print(agreement, flush=True)
    alone = measure(partial(model.predict_prepared, [image], detect), REPEATS, warmup=3)
    model = make().optimize_for_inference(precision).to("cuda")
    with FlopCounterMode(display=False) as counted:
        found = model.predict_prepared([image], detect)[0]
    torch.cuda.reset_peak_memory_stats()
    batches = throughput(model, [image] * size, detect, REPEATS)
    rate, most = BATCHES * size / batches.median, ceiling(card)
    reached = rate * counted.get_total_flops() / 1e12
    peak = torch.cuda.max_memory_allocated()
    figures: dict[str, object] = {
        "card": card,
        "precision": precision,
        "batch": size,
        "instances": len(found),
        "mean_area": round(float(found.masks.area.mean())),
        "images_per_second": round(rate, 1),
        "images_per_second_alone_float32": round(1 / alone.median, 1),
        "gflop_an_image": round(counted.get_total_flops() / 1e9, 1),
        "tflops": round(reached, 1),
        "ceiling_tflops": most,
        "share_of_ceiling": None if most is None else round(reached / most, 3),
        "peak_gib": round(peak / 2**30, 2),
        "batches": batches.figures(),
        "alone": alone.figures(),
        "agreement": agreement,
        "profile": device_shares(lambda: throughput(model, [image] * size, detect, 1, warmup=0)),
    }
    print(figures, flush=True)
    photographs = throughput(model, sizes_of_their_own(image, size), detect, REPEATS)
    figures["sizes_of_their_own"] = {
        "images_per_second": round(BATCHES * size / photographs.median, 1),
        "batches": photographs.figures(),
    }
    print(figures["sizes_of_their_own"], flush=True)
    figures["compiled"] = compiled(model, [image] * size, detect)
    report("model-gpu", rate * alone.median, figures)


def sizes_of_their_own(image: Prepared, count: int) -> list[Prepared]:
    """Images of one padded size and 31 widths of input, from photographs of three times their size."""
    height, width = image.resized
    edges = [width - 1 - number % 31 for number in range(count)]
    return [
        replace(image, pixels=image.pixels[:, :edge], size=(3 * height, 3 * edge + number // 31))
        for number, edge in enumerate(edges)
    ]


def agreeing(
    found: list[Instances], model: CondInst, batch: list[Prepared], detect: DetectConfig
) -> dict[str, object]:
    """How many of a processor's instances a card has too: the same class, masks at an IoU of 0.99.

    And whether masks of several sizes are on the card what each size has alone.
    """
    want = model.optimize_for_inference("float32").predict_prepared(batch, detect)
    shares = [has(a, b, item.size) for a, b, item in zip(found, want, batch, strict=True)]
    logits = ellipses(CASES[0])[: 2 * len(batch)].to("cuda" if torch.cuda.is_available() else "cpu")
    images = [((item.resized, item.size), 2) for item in batch[1:]]
    with torch.inference_mode():
        together = [part.masks() for part in mask_changes(logits[2:], images)]
    pairs = zip(logits[2:].split(2), images, strict=True)
    alone = [full_size_masks(own, *sizes) for own, (sizes, _) in pairs]
    same = RleMasks.concatenate(together).counts == RleMasks.concatenate(alone).counts
    return {
        "instances": sum(len(one) for one in want),
        "least_share_of_an_image": round(min(shares), 4),
        "sizes_together_as_alone": same,
    }


def has(found: Instances, want: Instances, size: tuple[int, int]) -> float:
    """The share of wanted instances that are among the found; masks of no pixels are all the same."""
    frames = [
        [{"size": list(size), "counts": counts} for counts in one.masks.frames(size)] for one in (want, found)
    ]
    overlaps = coco.iou(*frames, [0] * len(frames[1]))
    empty = (want.masks.area == 0)[:, None] & (found.masks.area == 0)
    same = want.classes[:, None] == found.classes
    return float((((overlaps > 0.99) | empty) & same).any(1).mean())


def compiled(model: CondInst, batch: list[Prepared], detect: DetectConfig) -> dict[str, object]:
    """The same with `compile: true`, and how long the first batch took; the reason where nothing compiles."""
    try:
        model.compile_dense()
    except CompileError as error:
        return {"not_compiled": str(error)}
    first = throughput(model, batch, detect, 1, warmup=0)  # graphs are a thread's own, so not here
    batches = throughput(model, batch, detect, REPEATS)
    return {
        "first_batches_s": round(first.median, 1),
        "images_per_second": round(BATCHES * len(batch) / batches.median, 1),
        "batches": batches.figures(),
    }


def throughput(
    model: CondInst, batch: list[Prepared], detect: DetectConfig, repeats: int, warmup: int = 1
) -> Timing:
    """Seconds of so many batches through a worker's threads."""
    inference = Inference(
        lambda part, later: model.begin(part, detect, later).instances, threads=1, encoders=MOST_ENCODERS
    )

    def once() -> None:
        futures = [inference.submit(0, model.stacked(batch), Clock()) for _ in range(BATCHES)]
        failed = [one for future in futures for one in future.result() if isinstance(one.found, Exception)]
        if failed:
            raise RuntimeError(f"{len(failed)} images failed") from failed[0].found  # type: ignore[misc]

    try:
        return measure(once, repeats, warmup)
    finally:
        inference.close()
