"""`condinst try`: a job's settings on a few of its images, drawn; nothing is written to its output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from condinst import CondInst
from condinst.precision import quickest_precision
from jobs import structured
from jobs.cautions import capped
from jobs.gallery import Gallery
from jobs.picking import sample
from jobs.resolve import open_output, settings_of
from jobs.spec import SegmentSpec
from jobs.standing import standing_job
from pipeline.decode import decode
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.model import detect_config, load_model, preparing
from pipeline.nouns import many
from pipeline.pixels import Rgb
from pipeline.records import ImageRef, InputRejected
from pipeline.rows import visible
from pipeline.settings import AUTO, BATCH_IMAGES, SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.nodata import on_data
from pipeline.tiled.norms import NOTHING, RasterNorms, Statistics
from pipeline.tiled.pixels import framed
from pipeline.tiled.reading import WindowReader

Look = Callable[[ImageRef], tuple[Rgb, NDArray[np.bool_] | None]]
"""Gives an input's pixels, or a window's, and which of them hold data (None: all)."""


def try_job(spec: SegmentSpec, count: int, folder: Path, console: Console | None = None) -> Gallery:
    """Segment `count` images at even distances over the job's input, and draw them into `folder`.

    The same images each time, from the output's frozen plan where it has one. Raises InputError, WeightsError
    or StoreError when the job itself could not begin.
    """
    console = console or Console()
    output = open_output(spec)
    settings = here(settings_of(spec, standing_job(Ledger(output))), console)
    refs = sample(settings, output, count, partial(structured.warn, console))
    console.print(f"trying {many(len(refs), 'image')} of {spec.name}", highlight=False)
    model = load_model(settings)
    detect = detect_config(model, settings)
    look = looking(settings)
    prepare = preparing(model, settings)
    gallery = Gallery(folder, model.config.classes, console, afresh=True)
    full = 0
    with _norms_of(settings, model, look) as norms_of:
        for ref in refs:
            try:
                image, valid = look(ref)
            except InputRejected as rejected:
                gallery.reject(ref.image_id, rejected.status, rejected.reason)
            else:
                prepared = replace(prepare(image, None), norms=norms_of(ref))
                found = model.predict_prepared([prepared], detect)[0]
                full += found.capped
                found = visible(found)
                found = found if valid is None else on_data(found, valid)
                gallery.add(ref.image_id, image, found, each=False)
    gallery.close()
    for note in capped(full, windows=settings.tiling is not None):
        structured.warn(console, note)
    return gallery


@contextmanager
def _norms_of(
    settings: SegmentSettings, model: CondInst, look: Look
) -> Iterator[Callable[[ImageRef], Statistics | None]]:
    """What finds the statistics of the raster that a window is of, and keeps them in this process alone."""
    if settings.tiling is None or settings.tiling.norms != "raster":
        yield lambda ref: None
        return
    prepare = preparing(model, settings)

    def measure(squares: Sequence[ImageRef]) -> Statistics:
        seen = []
        for square in squares:
            with suppress(InputRejected):
                seen.append(look(square))
        if not seen:
            return NOTHING
        return model.statistics([prepare(image, None) for image, _ in seen], [valid for _, valid in seen])

    with tempfile.TemporaryDirectory(prefix="condinst-try-") as scratch:
        norms = RasterNorms(Store.open(scratch), settings.tiling.scale)
        yield lambda ref: norms.of(ref, measure)


def looking(settings: SegmentSettings) -> Look:
    """How a job's inputs are looked at here."""
    # Decoded in full whatever the spec says: what is drawn is the image itself.
    inputs = Inputs(settings.sources)
    windows = WindowReader(settings.sources, 1 if settings.tiling is None else settings.tiling.multiple)
    limits = settings.limits

    def look(ref: ImageRef) -> tuple[Rgb, NDArray[np.bool_] | None]:
        if ref.window is not None:
            pixels = windows.read(ref, limits, lambda data: decode(data, limits))
            shown = framed(pixels, ref.window, windows.multiple)
            return shown.rgb, shown.valid
        return decode(inputs.fetch(ref, limits.bytes)[0], limits), None

    return look


def here(settings: SegmentSettings, console: Console) -> SegmentSettings:
    """The same settings on this machine: without a GPU, and it is said, on the CPU in float32."""
    settings = replace(settings, batch_images=settings.batch_images or BATCH_IMAGES)
    if settings.gpus and not torch.cuda.is_available():
        console.print(
            f"note: workers.gpus is {settings.gpus:g}, but torch finds no CUDA device here: the model runs "
            "on the CPU in float32",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
        return replace(settings, gpus=0, precision="float32")
    if settings.precision == AUTO:
        settings = replace(settings, precision=quickest_precision(settings.device))
    return settings
