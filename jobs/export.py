"""`condinst export`: a run's tables in a form that another program reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from jobs.errors import JobError
from jobs.target import open_run
from pipeline.export import coco, labelstudio, places, png, yolo
from pipeline.export.files import Place, TargetError, place_of, relative
from pipeline.export.places import NoPlace
from pipeline.export.selection import Exported, Selection, SelectionError
from pipeline.geo.georef import crs_name
from pipeline.nouns import many
from pipeline.storage import StoreOptions
from pipeline.tables import Run


@dataclass(frozen=True)
class Request:
    """What to export, as what, and where to."""

    output: str
    format: str
    to: str | Path | None = None
    """A path, or a URI in a store that is reached as the output's; by default a file named after the job."""
    selection: Selection = field(default_factory=Selection)
    crs: str | None = None
    image_prefix: str | None = None
    simplify: float = 0
    """Pixels by which outlines may stray to have fewer corners."""
    store: StoreOptions = field(default_factory=StoreOptions)


@dataclass(frozen=True)
class Format:
    """One form: what follows the job's name in its default place, what it loses, how it is written."""

    ending: str
    losses: Sequence[str]
    write: Callable[[Run, Request, Place], Exported]


def _places(run: Run, request: Request, to: Place) -> Exported:
    return places.write_places(run, request.selection, to, request.crs, request.simplify)


def _yolo(run: Run, request: Request, to: Place) -> Exported:
    return yolo.write_yolo(run, request.selection, to, request.simplify)


def _labelstudio(run: Run, request: Request, to: Place) -> Exported:
    return labelstudio.write_labelstudio(run, request.selection, to, request.image_prefix)


FORMATS: Mapping[str, Format] = {
    "coco": Format(".coco.json", coco.LOSSES, lambda run, r, to: coco.write_coco(run, r.selection, to)),
    "yolo-seg": Format("-yolo", yolo.LOSSES, _yolo),
    "labelstudio": Format(".labelstudio.json", labelstudio.LOSSES, _labelstudio),
    "geojson": Format(".geojson", places.LOSSES["geojson"], _places),
    "gpkg": Format(".gpkg", places.LOSSES["gpkg"], _places),
    "flatgeobuf": Format(".fgb", places.LOSSES["flatgeobuf"], _places),
    "geoparquet": Format(".parquet", places.LOSSES["geoparquet"], _places),
    "png-masks": Format("-masks", png.LOSSES, lambda run, r, to: png.write_png(run, r.selection, to)),
}


def export_output(request: Request, console: Console | None = None) -> Exported:
    """Write the export and say what it holds and what it lost.

    Raises JobError for a format, selection or place that does not do, StoreError.
    """
    console = console or Console()
    form = FORMATS.get(request.format)
    if form is None:
        raise JobError(f"--format {request.format}: expected one of {', '.join(FORMATS)}")
    _check(request, form)
    run = open_run(request.output, request.store)
    named = request.to or relative(str(run.job.get("name", "instances"))) + form.ending
    to = place_of(str(named), request.store)
    try:
        request.selection.check(run)
        done = form.write(run, request, to)
    except (SelectionError, NoPlace, TargetError, ImportError) as error:
        raise JobError(str(error)) from None
    _tell(run, to, form, done, console)
    return done


def _check(request: Request, form: Format) -> None:
    """Raise JobError for an option that has no meaning for the format, or a name with another ending."""
    on_map = form.write is _places
    if request.crs is not None:
        if not on_map:
            raise JobError(f"--crs belongs to formats with a map, not to {request.format}")
        try:
            crs_name(request.crs)
        except ValueError as error:
            raise JobError(f"--crs: {error}") from None
    if request.image_prefix is not None and request.format != "labelstudio":
        raise JobError("--image-prefix belongs to --format labelstudio")
    if request.simplify and not (on_map or form.write is _yolo):
        raise JobError(f"--simplify belongs to map formats and yolo-seg, not to {request.format}")
    if on_map and request.to is not None and Path(request.to).suffix.lower() != form.ending:
        raise JobError(f"--to {request.to}: a file of {request.format} ends in {form.ending}")


def _tell(run: Run, to: Place, form: Format, done: Exported, console: Console) -> None:
    def line(text: str, style: str | None = None) -> None:
        console.print(escape(text), style=style, highlight=False, soft_wrap=True)

    line(f"{many(done.instances, 'instance')} on {many(done.images, 'image')} in {to}")
    if not run.complete:
        line("note: the run is not complete: this is what was committed so far", "yellow")
    for loss in form.losses:
        line(f"lost: {loss}")
    for what, number in sorted((+done.losses).items()):
        line(f"lost: {number:,} {what}", "yellow")
