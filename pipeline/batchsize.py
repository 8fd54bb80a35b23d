"""How much goes through the model at once: tried on a worker's GPU when a job first runs, and then kept.

Images that share a batch move each other's scores by rounding, so a job's batches never change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from pipeline.cluster import cluster
from pipeline.settings import SegmentSettings
from pipeline.weights import detect_config, load_model, preparing

SHARE = 0.6
"""Of the GPU's free memory: the rest is for images of many instances, and for what memory is cut into."""
MOST_IMAGES = 64
"""More make no GPU faster, and a batch that fails is gone through image by image."""
PHOTOGRAPH = (3000, 4000)
"""Height and width of the image that is tried where inputs are not windows; the weights' rule resizes it."""


def fitted(settings: SegmentSettings, *, local: bool) -> SegmentSettings:
    """The settings with the batches that a worker's GPU has room for: this process's, or one of Ray's.

    Raises ClusterTooSmall and what loading the model raises.
    """
    if local:
        images, pixels = look(settings)
    else:
        import ray

        with cluster(settings, 1):
            task = ray.remote(look).options(
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                memory=settings.memory or None,
                accelerator_type=settings.accelerator,
                runtime_env={"env_vars": dict(settings.env)},
                max_calls=1,  # the memory is the workers' again
            )
            images, pixels = ray.get(task.remote(settings))
    return replace(settings, batch_images=images, batch_pixels=pixels)


def look(settings: SegmentSettings) -> tuple[int, int]:
    """Images and padded pixels of a batch, tried on this process's GPU."""
    model = load_model(settings)
    detect = detect_config(model, settings)
    size = PHOTOGRAPH if settings.tiling is None else (settings.tiling.size, settings.tiling.size)
    item = preparing(model, settings)(np.zeros((*size, 3), np.uint8), None)

    def peak(images: int) -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.predict_prepared([item] * images, detect)
        return torch.cuda.max_memory_allocated() - before

    return room_for(torch.cuda.mem_get_info()[0], item.padded[0] * item.padded[1], peak)


def room_for(free: int, area: int, peak: Callable[[int], int]) -> tuple[int, int]:
    """Images and pixels of a batch in `free` bytes, for images of `area` pixels.

    `peak` tells how many bytes so many of them take; what two take more than one is what each takes. An
    image that does not even fit alone goes alone.
    """
    try:
        one, two = peak(1), peak(2)
    except torch.OutOfMemoryError:
        return 1, area
    each = max(two - one, 1)
    images = int((free * SHARE - max(one - each, 0)) // each)
    return min(max(images, 1), MOST_IMAGES), max(images, 1) * area
