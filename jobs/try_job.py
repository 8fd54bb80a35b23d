"""`condinst try`: a job's settings on a few of its images, drawn; nothing is written to its output."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from jobs.gallery import Gallery
from jobs.resolve import open_output, settings_of, standing_job
from jobs.spec import SegmentSpec
from pipeline.decode import decode
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, freeze, load_plans, read_shard
from pipeline.records import ImageRef, InputRejected
from pipeline.rows import visible
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.weights import detect_config, load_model


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
    inputs = Inputs(settings.sources)
    gallery = Gallery(folder, model.config.classes, console)
    for ref in refs:
        try:
            data, _ = inputs.fetch(ref, settings.limits.bytes)
            image = decode(data, settings.limits)
        except InputRejected as rejected:
            gallery.reject(ref.image_id, rejected.status, rejected.reason)
        else:
            found = visible(model.predict_prepared([model.prepare(image)], detect)[0])
            gallery.add(ref.image_id, image, found, each=False)
    gallery.close()
    return gallery


def sample(settings: SegmentSettings, output: Store, count: int) -> list[ImageRef]:
    """`count` inputs at even distances (all, if there are fewer), in plan order."""
    plans = load_plans(output)
    if plans:
        return _pick(output, plans, count)
    with tempfile.TemporaryDirectory(prefix="condinst-try-") as scratch:
        store = Store.open(scratch)
        refs = _pick(store, [freeze(settings.sources, store, 1000, 0)], count)
    own = f"{output.uri}/"
    return [ref for ref in refs if not ref.uri.startswith(own)]


def _pick(store: Store, plans: Sequence[Plan], count: int) -> list[ImageRef]:
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
    if settings.gpus == 0 or torch.cuda.is_available():
        return settings
    return replace(settings, gpus=0, precision="float32")
