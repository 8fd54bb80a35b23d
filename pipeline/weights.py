"""The weights of a job, wherever they lie."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condinst.config import DEMO
from condinst.weightsfile import WeightsError, digest, read_config
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


def class_names(settings: SegmentSettings) -> tuple[str, ...]:
    """The classes of the job's model, without loading it. Raises as `weights_file`."""
    with weights_file(settings) as path:
        return read_config(path).classes


@contextmanager
def weights_file(settings: SegmentSettings) -> Iterator[Path]:
    """The job's weights as a file. Raises ModelChanged, condinst.WeightsError or StoreError."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = fetch_weights(settings.weights, settings.weights_options, Path(folder))
        found = digest(path)
        if found != settings.model_digest:
            raise ModelChanged(
                f"{settings.weights} has sha256 {found[:12]}..., the job was planned with "
                f"{settings.model_digest[:12]}...: put that file back, or name another output for the new one"
            )
        yield path
