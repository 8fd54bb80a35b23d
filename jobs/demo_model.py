"""`condinst demo-model`: train the model shipped with the package on generated scenes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from condinst import weights
from condinst.augment import AugmentConfig, CropMask, Example
from condinst.config import (
    BackboneConfig,
    DetectConfig,
    FixedScale,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
)
from condinst.criterion import Criterion, LossConfig
from condinst.fit import FitConfig, fit
from condinst.model import CondInst
from condinst.sampling import Order
from condinst.views import Views
from jobs.scenes import CATEGORIES, render

TRAIN_SEEDS = range(100_000)
"""Seeds of training scenes; tests and `condinst demo` use others (100,000 and up)."""


def demo_config() -> ModelConfig:
    """A small CondInst: ResNet-18 of half the width at the images' own scale."""
    return ModelConfig(
        classes=CATEGORIES,
        backbone=BackboneConfig(depth=18, stem_channels=32, width=32, norm="batch"),
        fpn=FpnConfig(channels=96),
        head=HeadConfig(num_convs=2, groups=16),
        mask=MaskConfig(branch_channels=64, branch_convs=3, semantic=True),
        input=InputConfig(resize=FixedScale(scale=1.0)),
        detect=DetectConfig(max_instances=300),
    )


def main(
    output: Path,
    *,
    scenes: int = 900,
    steps: int = 4200,
    batch: int = 8,
    size: int = 320,
    seed: int = 0,
) -> int:
    """Train from random weights and write `output`; prints progress. Returns 0.

    On one thread, and with PyTorch's deterministic algorithms: the weights then depend on the kind of
    processor and the versions alone, not on how many cores there are or what else they do.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    config = demo_config()
    model = CondInst(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    began = time.monotonic()
    print(f"rendering {scenes} scenes")
    examples = [_example(TRAIN_SEEDS[n]) for n in range(scenes)]
    print(f"rendered in {time.monotonic() - began:.0f} s; training {steps} steps of {batch} x {size} px")
    loss = LossConfig(semantic=True, max_mask_instances=200)
    began = time.monotonic()
    losses: list[dict[str, float]] = []

    def on_step(step: int, terms: dict[str, float]) -> None:
        losses.append(terms)
        if step % 50 == 0 or step == steps:
            mean = {k: np.mean([t[k] for t in losses]) for k in terms}
            text = "  ".join(f"{k} {v:.4g}" for k, v in mean.items())
            rate = step * batch / (time.monotonic() - began)
            print(f"step {step}/{steps}  {text}  {rate:.1f} images/s", flush=True)
            losses.clear()

    order = Order((scenes,), (1.0,), seed)
    views = Views(examples.__getitem__, order, config, loss, AugmentConfig(size=size))
    batches = views.batches(batch)
    fit(model, Criterion(loss), batches, FitConfig(steps=steps), on_step)
    notes = {
        "trained_on": f"generated scenes, seeds 0-{scenes - 1}",
        "steps": str(steps),
        "batch": f"{batch} x {size} px",
        "seed": str(seed),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    weights.save(model, output, dtype=torch.float16, notes=notes)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _example(seed: int) -> Example:
    scene = render(seed, 640, 640)
    return Example(
        scene.image,
        tuple(CropMask(o.x, o.y, o.mask, CATEGORIES.index(o.category)) for o in scene.objects),
    )
