"""`condinst predict`: a few images through the model, without a job."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

import condinst
from jobs.errors import JobError, on_disk
from jobs.gallery import Gallery
from pipeline.decode import DecodeLimits, decode
from pipeline.keys import locate
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.rows import Outcome, instances_table, to_parquet, visible
from pipeline.schemas import SCHEMA_VERSION
from pipeline.storage import NotFound, Store, StoreOptions
from pipeline.weights import fetch_weights

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".mpo")
"""What is taken from a folder; a file named by itself is read whatever it is called."""


TABLE = "instances.parquet"
"""Beside the overlays: a row an instance, in the columns of a run's `instances`."""

Read = Callable[[], bytes]


def predict_files(
    images: Sequence[str],
    weights: str,
    output: Path,
    score_threshold: float | None = None,
    max_instances: int | None = None,
    options: StoreOptions | None = None,
    console: Console | None = None,
) -> Gallery:
    """Segment image files, those right in folders, and images in stores; returns the gallery of overlays.

    Their instances are written beside the overlays, as `TABLE`; `image_id` is the path or URI. Raises
    JobError for a path that does not exist and a folder that cannot be written in, WeightsError, StoreError.
    """
    console, options = console or Console(), options or StoreOptions()
    # By name: what was given twice is one image.
    sources = dict(found for image in images for found in _found(image, options))
    model = _load(weights, options)
    stated = {"score_threshold": score_threshold, "max_instances": max_instances}
    config = model.config.detect.model_copy(update={k: v for k, v in stated.items() if v is not None})
    gallery = Gallery(output, model.config.classes, console)
    outcomes = []
    for image_id, read in sources.items():
        name = image_id.rpartition("/")[2]
        try:
            image = decode(read(), DecodeLimits())
        except InputRejected as rejected:
            gallery.reject(name, rejected.status, rejected.reason)
        else:
            found = visible(model.predict([image], config)[0])
            gallery.add(name, image, found, each=len(sources) <= 5)
            ref, size = ImageRef(image_id, image_id, 0), (image.shape[0], image.shape[1])
            outcomes.append(Outcome(ref, Status.OK, size=size, found=found))
    gallery.close()
    _write(outcomes, model.config.classes, output / TABLE)
    console.print(f"instances in [bold]{escape(str(output / TABLE))}[/]", highlight=False, soft_wrap=True)
    return gallery


def _write(outcomes: Sequence[Outcome], classes: Sequence[str], path: Path) -> None:
    data = to_parquet(instances_table(outcomes, classes), {"condinst.schema": SCHEMA_VERSION})
    with on_disk(path):
        path.write_bytes(data)


def _load(weights: str, options: StoreOptions) -> condinst.CondInst:
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        return condinst.load(fetch_weights(weights, options, Path(folder)))


def _found(image: str, options: StoreOptions) -> Iterator[tuple[str, Read]]:
    """The images that an argument names, each with what reads it."""
    path = Path(image)
    if "://" in image:
        yield image, _in_store(image, options)
    elif path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise JobError(f"{path}: no images right in this folder; name files, or run a job over it")
        yield from ((str(file), file.read_bytes) for file in inside)
    elif path.is_file() and os.access(path, os.R_OK):
        yield image, path.read_bytes
    else:
        raise JobError(f"{path}: no such image file, or it cannot be read")


def _in_store(uri: str, options: StoreOptions) -> Read:
    """What reads an object. Raises JobError where there is none."""
    folder, _, name = locate(uri, trim=False).uri.rpartition("/")
    store = Store.open(folder, options)
    try:
        if not name or folder.endswith(":/"):
            raise NotFound
        store.head(name)
    except NotFound:
        raise JobError(
            f"{uri}: no such image; name images one by one, or `try` a job over a folder"
        ) from None
    return partial(store.get, name)
