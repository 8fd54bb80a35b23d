"""`condinst chips`: labels on a map, and a tiled job's windows, as images and a COCO truth to train on."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError, one_line
from jobs.resolve import settings_of
from jobs.segment import freeze_input
from jobs.spec import SegmentSpec
from pipeline.export.files import TargetError, place_of, whole_folder
from pipeline.geo.vector_labels import LabelsError, MapLabels, read_labels
from pipeline.keys import locate
from pipeline.nouns import many
from pipeline.storage import NotFound, Store, StoreOptions
from pipeline.tiled.chips import Chips, Choice, write_chips

IMAGES, TRUTH = "images", "truth.json"


@dataclass(frozen=True)
class Request:
    """Whose windows, which labels, and where to."""

    spec: SegmentSpec
    labels: str
    """GeoJSON or GeoPackage: a path or a URI."""
    to: str | Path
    column: str | None = None
    """Property of a polygon that names its class."""
    alone: str = "object"
    """The class of all, without one."""
    choice: Choice = field(default_factory=Choice)
    store: StoreOptions = field(default_factory=StoreOptions)
    """How `labels` and `to` are reached, where these are in a store."""


def cut_chips(request: Request, console: Console | None = None) -> Chips:
    """Write `images/` and `truth.json` into a new folder, and say what is in them and what is not.

    Raises JobError for a spec without tiling, for labels that cannot be used or lie nowhere in the input,
    and for a place that is taken; what planning a job raises; StoreError.
    """
    console, spec = console or Console(), request.spec
    if spec.tiling is None:
        raise JobError("chips are windows, and the spec has no `tiling`; add it, as the job will have it")
    labels = _labels(request)
    settings = settings_of(spec)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="condinst-chips-") as scratch,
            whole_folder(place_of(str(request.to), request.store)) as folder,
        ):
            plans = Store.open(scratch)
            plan = freeze_input(spec, settings, plans)
            (folder / IMAGES).mkdir()
            chips = write_chips(settings, plans, plan, labels, request.choice, folder / IMAGES)
            if not chips.annotations:
                raise JobError(
                    f"{request.labels}: none of its {len(labels.classes):,} polygons lies in a window of the "
                    f"input ({labels.crs[:80]}){_listed(chips.left_out)}; check the CRS, `input` and `area`"
                )
            (folder / TRUTH).write_text(json.dumps(chips.truth(labels.names)))
    except TargetError as error:
        raise JobError(str(error)) from None
    _tell(request, labels, chips, console)
    return chips


def _labels(request: Request) -> MapLabels:
    folder, _, name = locate(request.labels, trim=False).uri.rpartition("/")
    try:
        data = Store.open(folder or "/", request.store).get(name)
        return read_labels(data, request.labels, request.column, request.alone)
    except NotFound:
        raise JobError(f"{request.labels}: there is no such file") from None
    except LabelsError as error:
        raise JobError(str(error)) from None


def _listed(counts: Counter[str]) -> str:
    return "".join(f"; {number:,} {what}" for what, number in sorted((+counts).items()))


def _tell(request: Request, labels: MapLabels, chips: Chips, console: Console) -> None:
    def line(text: str, style: str | None = None) -> None:
        console.print(escape(one_line(text)), style=style, highlight=False, soft_wrap=True)

    names = ", ".join(labels.names[:12])
    line(
        f"{many(len(chips.images), 'image')} ({chips.empty:,} without a label) with "
        f"{many(len(chips.annotations), 'instance')} of {names} in {request.to}"
    )
    line(f"{len(chips.used):,} of {len(labels.classes):,} labels are in one image or more, cut where it ends")
    if outside := len(labels.classes) - len(chips.used):
        line(f"left out: {many(outside, 'label')} in no window", "yellow")
    for what, number in sorted((+(labels.left_out + chips.left_out)).items()):
        line(f"left out: {number:,} {what}", "yellow")
    place = str(request.to).rstrip("/")
    line(f"train on it: data.train: {{uri: {place}/{IMAGES}, annotations: {place}/{TRUTH}}}")
