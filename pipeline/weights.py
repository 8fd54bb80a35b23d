"""The model of a job, wherever its weights lie."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

import condinst
from condinst.config import DetectConfig, FixedScale, Precision
from condinst.preprocess import Prepared, prepare, resized_size
from condinst.weights import DEMO, WeightsError, digest, read_config
from pipeline.models import resolved
from pipeline.settings import SegmentSettings
from pipeline.storage import NotFound, Store, StoreOptions


class ModelChanged(Exception):
    """The weights file is not the one that the job was planned with."""


def fetch_weights(uri: str, options: StoreOptions, folder: Path) -> Path:
    """A local path of the weights that `uri` names: itself where it is one, else a copy in `folder`.

    `demo` stays `demo`; of a model's `current.json` it is the current version. Raises ModelsError where there
    is none, WeightsError where the URI names no file, StoreError when the store does not give it.
    """
    uri = resolved(uri, options)
    if uri == DEMO or "://" not in uri:
        return Path(uri)
    parent, _, name = uri.rpartition("/")
    target = folder / "weights.safetensors"
    try:
        if not name:
            raise NotFound
        target.write_bytes(Store.open(parent, options).get(name))
    except NotFound:
        raise WeightsError(
            f"{uri}: there is no such weights file; give the URI of a .safetensors file, or `{DEMO}`"
        ) from None
    return target


def load_model(settings: SegmentSettings) -> condinst.CondInst:
    """The job's model on the job's device. Raises ModelChanged, condinst.WeightsError or StoreError."""
    with _weights(settings) as path:
        return condinst.load(str(path), settings.device, cast(Precision, settings.precision))


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


def class_names(settings: SegmentSettings) -> tuple[str, ...]:
    """The classes of the job's model, without loading it. Raises as `load_model`."""
    with _weights(settings) as path:
        return read_config(path).classes


@contextmanager
def _weights(settings: SegmentSettings) -> Iterator[Path]:
    """The job's weights as a file."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = fetch_weights(settings.weights, settings.weights_options, Path(folder))
        found = digest(path)
        if found != settings.model_digest:
            raise ModelChanged(
                f"{settings.weights} has sha256 {found[:12]}..., the job was planned with "
                f"{settings.model_digest[:12]}...: put that file back, or name another output for the new one"
            )
        yield path


def detect_config(model: condinst.CondInst, settings: SegmentSettings) -> DetectConfig:
    """The model's own detection settings with the job's in their place.

    Raises ValueError for a bad one, and for a class that the model does not have.
    """
    merged = DetectConfig.model_validate({**model.config.detect.model_dump(), **settings.detect})
    merged.thresholds(model.config.classes)
    return merged
