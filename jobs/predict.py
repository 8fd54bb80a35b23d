"""`condinst predict`: a few images through the model, without a job."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

import condinst
from jobs.errors import JobError
from jobs.gallery import Gallery
from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected
from pipeline.rows import visible
from pipeline.storage import StoreOptions
from pipeline.weights import fetch_weights

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".mpo")
"""What is taken from a folder; a file named by itself is read whatever it is called."""


def predict_files(
    images: Sequence[Path],
    weights: str,
    output: Path,
    score_threshold: float | None = None,
    max_instances: int | None = None,
    console: Console | None = None,
) -> Gallery:
    """Segment image files, and those right in folders; returns the gallery of overlays.

    Raises JobError for a path that does not exist, WeightsError or StoreError when there is no model.
    """
    paths = list(_files(images))
    model = _load(weights)
    stated = {"score_threshold": score_threshold, "max_instances": max_instances}
    config = model.config.detect.model_copy(update={k: v for k, v in stated.items() if v is not None})
    gallery = Gallery(output, model.config.classes, console or Console())
    for path in paths:
        try:
            image = decode(path.read_bytes(), DecodeLimits())
        except InputRejected as rejected:
            gallery.reject(path.name, rejected.status, rejected.reason)
        else:
            found = visible(model.predict([image], config)[0])
            gallery.add(path.name, image, found, each=len(paths) <= 5)
    gallery.close()
    return gallery


def _load(weights: str) -> condinst.CondInst:
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        return condinst.load(fetch_weights(weights, StoreOptions(), Path(folder)))


def _files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            if not inside:
                raise JobError(f"{path}: no images right in this folder; name files, or run a job over it")
            yield from inside
        elif path.is_file() and os.access(path, os.R_OK):
            yield path
        else:
            raise JobError(f"{path}: no such image file, or it cannot be read")
