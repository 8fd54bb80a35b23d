"""`condinst plan --check`: whether the model opens, and whether images can be segmented with it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from jobs.errors import JobError, one_line
from jobs.try_job import here, looking
from pipeline.model import detect_config, load_model, preparing
from pipeline.nouns import many
from pipeline.records import ImageRef, InputRejected, Status
from pipeline.rows import visible
from pipeline.settings import SegmentSettings
from pipeline.tiled.nodata import on_data

IMAGES = 10


def check_model(settings: SegmentSettings, sample: Sequence[ImageRef], console: Console) -> None:
    """Open the model and segment ten inputs, or windows, of a sample on this machine.

    Raises WeightsError, StoreError when they cannot be had, JobError when none of the inputs can be read.
    """
    settings = here(settings, console)
    began = time.monotonic()
    model = load_model(settings)
    detect, prepare = detect_config(model, settings), preparing(model, settings)
    console.print(f"checked: the model opens ({time.monotonic() - began:.1f} s)", highlight=False)
    look, good = looking(settings), 0
    chosen = sample[:: max(1, len(sample) // IMAGES)][:IMAGES]
    for ref in chosen:
        began = time.monotonic()
        try:
            image, valid = look(ref)
        except InputRejected as rejected:
            good += rejected.status is Status.NODATA  # there is nothing to segment, and nothing wrong
            said = f"{rejected.status.value}: {rejected.reason}"
        else:
            found = visible(model.predict_prepared([prepare(image, None)], detect)[0])
            found = found if valid is None else on_data(found, valid)
            good += 1
            said = f"{many(len(found), 'instance')}, {time.monotonic() - began:.1f} s"
        console.print(f"checked: {one_line(ref.image_id)}: {said}", markup=False, highlight=False)
    if chosen and not good:
        noun = "input" if settings.tiling is None else "window"
        raise JobError(f"none of {many(len(chosen), noun)} tried can be segmented; see why above")
