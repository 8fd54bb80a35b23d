"""The model of a job, wherever its weights lie."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import condinst
from condinst.config import DetectConfig, Precision
from condinst.weights import DEMO, digest
from pipeline.models import resolved
from pipeline.settings import SegmentSettings
from pipeline.storage import Store, StoreOptions


class ModelChanged(Exception):
    """The weights file is not the one that the job was planned with."""


def fetch_weights(uri: str, options: StoreOptions, folder: Path) -> Path:
    """A local path of the weights that `uri` names: itself where it is one, else a copy in `folder`.

    `demo` stays `demo`; of a model's `current.json` it is the current version. Raises ModelsError where there
    is none, StoreError when the store does not give the file.
    """
    uri = resolved(uri, options)
    if uri == DEMO or "://" not in uri:
        return Path(uri)
    parent, _, name = uri.rpartition("/")
    target = folder / "weights.safetensors"
    target.write_bytes(Store.open(parent, options).get(name))
    return target


def load_model(settings: SegmentSettings) -> condinst.CondInst:
    """The job's model on the job's device. Raises ModelChanged, condinst.WeightsError or StoreError."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = fetch_weights(settings.weights, settings.weights_options, Path(folder))
        found = digest(path)
        if found != settings.model_digest:
            raise ModelChanged(
                f"{settings.weights} has sha256 {found[:12]}..., the job was planned with "
                f"{settings.model_digest[:12]}...: put that file back, or name another output for the new one"
            )
        return condinst.load(str(path), settings.device, cast(Precision, settings.precision))


def detect_config(model: condinst.CondInst, settings: SegmentSettings) -> DetectConfig:
    """The model's own detection settings with the job's in their place.

    Raises ValueError for a bad one, and for a class that the model does not have.
    """
    merged = DetectConfig.model_validate({**model.config.detect.model_dump(), **settings.detect})
    merged.thresholds(model.config.classes)
    return merged
