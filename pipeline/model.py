"""The model of a job: loaded, and set as the job says."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

import condinst
from condinst.config import DetectConfig, FixedScale, Precision
from condinst.preprocess import Prepared, prepare, resized_size
from pipeline.settings import SegmentSettings
from pipeline.weights import weights_file


def load_model(settings: SegmentSettings) -> condinst.CondInst:
    """The job's model on the job's device.

    Raises ModelChanged, condinst.WeightsError, condinst.CompileError or StoreError.
    """
    precision = cast(Precision, settings.precision)
    with weights_file(settings) as path:
        return condinst.load(str(path), settings.device, precision, compiled=settings.compile)


def preparing(
    model: condinst.CondInst, settings: SegmentSettings
) -> Callable[[NDArray[np.uint8], tuple[int, int] | None], Prepared]:
    """What resizes an image for the network: windows at one scale, whatever the weights' rule."""
    if settings.tiling is None:
        return model.prepare
    scale = FixedScale(scale=settings.tiling.scale)
    config = model.config.input.model_copy(update={"resize": scale})
    return lambda image, size: prepare(image, config, size)


def least_size(
    model: condinst.CondInst, settings: SegmentSettings
) -> Callable[[tuple[int, int]], tuple[int, int]] | None:
    """The (height, width) that a JPEG is decoded to at least, by its own; None where all of it is decoded."""
    if settings.decode == "full":
        return None
    return lambda size: resized_size(size, model.config.input)


def detect_config(model: condinst.CondInst, settings: SegmentSettings) -> DetectConfig:
    """The model's own detection settings with the job's in their place.

    Raises ValueError for a bad one, and for a class that the model does not have.
    """
    merged = DetectConfig.model_validate({**model.config.detect.model_dump(), **settings.detect})
    merged.thresholds(model.config.classes)
    return merged
