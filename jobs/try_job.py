"""`condinst try`: a job's settings on a few of its images, drawn; nothing is written to its output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from condinst.precision import quickest_precision
from jobs.gallery import Gallery
from jobs.resolve import open_output, settings_of, standing_job
from jobs.spec import SegmentSpec
from pipeline.decode import decode
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, freeze, load_plans, read_shard
from pipeline.pixels import Rgb
from pipeline.plan import window_plans
from pipeline.records import ImageRef, InputRejected
from pipeline.rows import visible
from pipeline.settings import AUTO, BATCH_IMAGES, SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.nodata import on_data
from pipeline.tiled.planning import freeze_tiled, open_windows
from pipeline.tiled.reading import WindowReader
from pipeline.weights import detect_config, load_model, preparing


def try_job(spec: SegmentSpec, count: int, folder: Path, console: Console | None = None) -> Gallery:
    """Segment `count` images at even distances over the job's input, and draw them into `folder`.

    The same images each time, from the output's frozen plan where it has one. Raises InputError, WeightsError
    or StoreError when the job itself could not begin.
    """
    console = console or Console()
    output = open_output(spec)
    settings = here(settings_of(spec, standing_job(Ledger(output))))
    refs = sample(settings, output, count)
    console.print(f"trying {len(refs)} images of {spec.name}", highlight=False)
    model = load_model(settings)
    detect = detect_config(model, settings)
    look = looking(settings)
    prepare = preparing(model, settings)
    gallery = Gallery(folder, model.config.classes, console)
    for ref in refs:
        try:
            image, valid = look(ref)
        except InputRejected as rejected:
            gallery.reject(ref.image_id, rejected.status, rejected.reason)
        else:
            found = visible(model.predict_prepared([prepare(image, None)], detect)[0])
            found = found if valid is None else on_data(found, valid)
            gallery.add(ref.image_id, image, found, each=False)
    gallery.close()
    return gallery


def looking(settings: SegmentSettings) -> Callable[[ImageRef], tuple[Rgb, NDArray[np.bool_] | None]]:
    """What gives an input's pixels, or a window's, and which of them hold data (None: all)."""
    # Decoded in full whatever the spec says: what is drawn is the image itself.
    inputs, windows = Inputs(settings.sources), WindowReader(settings.sources)
    limits = settings.limits

    def look(ref: ImageRef) -> tuple[Rgb, NDArray[np.bool_] | None]:
        if ref.window is not None:
            pixels = windows.read(ref, limits, lambda data: decode(data, limits))
            return pixels.rgb, pixels.valid
        return decode(inputs.fetch(ref, limits.bytes)[0], limits), None

    return look


def sample(settings: SegmentSettings, output: Store, count: int) -> list[ImageRef]:
    """`count` inputs (windows, of a tiled job) at even distances (all, if fewer), in plan order."""
    plans = load_plans(output)
    if plans:
        return picked(output, plans, count)
    with tempfile.TemporaryDirectory(prefix="condinst-try-") as scratch:
        store = Store.open(scratch)
        if settings.tiling is None:
            plan = freeze(settings.sources, store, 1000, 0)
        else:
            plan = freeze_tiled(settings.sources, store, 1000, 0, settings.tiling, settings.limits)
        refs = picked(store, [plan], count)
    own = f"{output.uri}/"
    return [ref for ref in refs if not ref.uri.startswith(own)]


def picked(output: Store, plans: Sequence[Plan], count: int) -> list[ImageRef]:
    """`count` of what the model is given, the plans' images or their windows, as `sample` has them."""
    windows = window_plans(plans)
    store, plans = (open_windows(output), windows) if windows else (output, plans)
    total = sum(plan.images for plan in plans)
    wanted = [number * total // count for number in range(count)] if count < total else list(range(total))
    refs: list[ImageRef] = []
    start = 0
    for plan in plans:
        places = [divmod(n - start, plan.shard_size) for n in wanted if start <= n < start + plan.images]
        for shard in sorted({shard for shard, _ in places}):
            rows = read_shard(store, plan, shard)
            refs += [rows[row] for place, row in places if place == shard]
        start += plan.images
    return refs


def here(settings: SegmentSettings) -> SegmentSettings:
    """The same settings on this machine: without a GPU, the model runs on the CPU in float32."""
    settings = replace(settings, batch_images=settings.batch_images or BATCH_IMAGES)
    if settings.gpus and not torch.cuda.is_available():
        return replace(settings, gpus=0, precision="float32")
    if settings.precision == AUTO:
        settings = replace(settings, precision=quickest_precision(settings.device))
    return settings
