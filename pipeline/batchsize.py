"""How much goes through the model at once: tried on a worker's GPU when a job first runs, and then kept.

Images that share a batch move each other's scores by rounding, so a job's batches never change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from condinst.config import DetectConfig
from condinst.memory import lacks_memory
from condinst.precision import quickest_precision
from pipeline.cluster import cluster
from pipeline.model import detect_config, load_model, preparing
from pipeline.settings import AUTO, SegmentSettings

SHARE = 0.6
"""Of the GPU's free memory: the rest is for images of many instances, and for what memory is cut into."""
MOST_IMAGES = 64
"""More make no GPU faster, and a batch that fails is gone through image by image."""
PHOTOGRAPH = (3000, 4000)
"""Height and width of the image that is tried where inputs are not windows; the weights' rule resizes it."""

Peak = Callable[[int], int | None]
"""How many bytes so many images take at their most, beside the model; None where they do not fit."""


def fitted(settings: SegmentSettings, *, local: bool) -> SegmentSettings:
    """The settings with what a worker's GPU decides: this process's, or one of Ray's.

    That are the batches that it has room for, and what `auto` is as precision; what is stated stays. Raises
    ClusterTooSmall and what loading the model raises.
    """
    if local:
        return look(settings)
    import ray

    options: dict[str, Any] = {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "memory": settings.memory or None,
        "accelerator_type": settings.accelerator,
        "runtime_env": {"env_vars": settings.process_env},
        "max_calls": 1,  # the memory is the workers' again; Ray takes it here, and not in `.options`
    }
    with cluster(settings, 1):
        found: SegmentSettings = ray.get(ray.remote(**options)(look).remote(settings))
        return found


def look(settings: SegmentSettings) -> SegmentSettings:
    """The settings as this process's GPU decides what they leave open."""
    if settings.precision == AUTO:
        settings = replace(settings, precision=quickest_precision(settings.device))
    if settings.batch_images:
        return settings
    images, area = _room(settings)
    # Images may be smaller than the one that was tried, and then more of them fit: the pixels bind.
    return replace(settings, batch_images=MOST_IMAGES, batch_pixels=images * area)


def room_for(free: float, peak: Peak) -> int:
    """Images, from 1 to 64, that a batch may have in `free` bytes.

    As many as fit a share of them, as what four images take more than two foretells; no more than half of
    what was then tried and did not fit after all.
    """
    if (two := peak(2)) is None:
        return 1
    if (four := peak(4)) is None:
        return 2
    each = max((four - two) / 2, 1)
    images = int((free * SHARE - max(two - 2 * each, 0)) // each)
    images = min(max(images, 1), MOST_IMAGES)
    while images > 1 and ((taken := peak(images)) is None or taken > free):
        images //= 2
    return images


def _room(settings: SegmentSettings) -> tuple[int, int]:
    """Images of a batch, tried on this process's GPU, and the padded pixels of the one that was tried."""
    model = load_model(replace(settings, compile=False))  # which changes little of what it holds
    size = PHOTOGRAPH if settings.tiling is None else (settings.tiling.size, settings.tiling.size)
    item = preparing(model, settings)(np.zeros((*size, 3), np.uint8), None)
    detect = crowded(detect_config(model, settings))

    def run(images: int) -> None:
        model.predict_prepared([item] * images, detect)

    measured(run, 1)  # the first run holds what later ones do not: cuDNN's trials, the libraries' workspaces
    free = torch.cuda.mem_get_info()[0] * min(1.0, settings.gpus or 1.0)
    return room_for(free, lambda count: measured(run, count)), item.padded[0] * item.padded[1]


def crowded(detect: DetectConfig) -> DetectConfig:
    """Settings with which any image has as many instances as it may have, each with its mask."""
    every = {"candidate_threshold": 0.0, "score_threshold": 0.0, "class_thresholds": (), "nms_iou": 1.0}
    return detect.model_copy(update=every)


def measured(run: Callable[[int], None], images: int) -> int | None:
    """Bytes that a run takes of the GPU at its most; None where it ran out of them."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        run(images)
    except Exception as error:
        if lacks_memory(error):
            return None
        raise
    finally:
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated() - before
