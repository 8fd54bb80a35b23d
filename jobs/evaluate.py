"""`condinst evaluate`: weights, or a segment job's tables, measured against a COCO truth."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape

import condinst
from condinst.config import DetectConfig, Precision
from condinst.evaluate import Kind, Metrics, evaluate
from condinst.weightsfile import digest
from jobs.categories import Categories, parse_renames
from jobs.device import check_device
from jobs.errors import JobError, on_disk
from jobs.figures import KINDS, print_metrics
from jobs.from_tables import coco_results, images_in_both, lacking
from jobs.plots import write_plots
from jobs.predictions import predictions
from jobs.target import open_run, put_file
from jobs.truth import has_masks, most_in_an_image, on_images, read_truth
from pipeline.nouns import many
from pipeline.storage import Store, StoreOptions
from pipeline.weights import fetch_weights


@dataclass(frozen=True)
class Request:
    """What to measure, against what, and where the figures go."""

    truth: str
    output: str | None = None
    weights: str | None = None
    images: str | None = None
    max_dets: int = 100
    limit: int | None = None
    only_run: bool = False
    """Only the truth's images that the output has rows for."""
    rename: tuple[str, ...] = ()
    class_agnostic: bool = False
    score_threshold: float | None = None
    precision: Precision | None = None
    device: str | None = None
    json_file: str | Path | None = None
    """A path, or a URI of a store that is reached as the output's."""
    plots: Path | None = None
    store: StoreOptions = field(default_factory=StoreOptions)


@dataclass(frozen=True)
class Subject:
    """What was measured: its results, what it is, and what to know about the figures."""

    results: list[dict[str, Any]]
    identity: dict[str, Any]
    notes: list[str]
    truth: COCO
    """What it was measured against."""


def run_evaluation(request: Request, console: Console | None = None) -> list[Metrics]:
    """Measure, print, and write what the request asks for; masks first, then boxes.

    Raises JobError for a request, truth or image that does not fit, WeightsError, StoreError.
    """
    console = console or Console()
    _check(request)
    truth = read_truth(request.truth, request.store, request.limit)
    categories = Categories(truth, parse_renames(request.rename), request.class_agnostic)
    measure = _of_weights if request.weights is not None else _of_tables
    subject = measure(request, truth, categories, console)
    kinds: tuple[Kind, ...] = ("segm", "bbox") if has_masks(truth) else ("bbox",)
    metrics = [evaluate(subject.truth, subject.results, kind, request.max_dets) for kind in kinds]
    print_metrics(metrics, subject.truth, console)
    for note in [*subject.notes, *_notes(request, truth)]:
        console.print(f"note: {escape(note)}", style="yellow", highlight=False, soft_wrap=True)
    if request.json_file is not None:
        _write_json(request, truth, subject, metrics)
        console.print(f"figures in {escape(str(request.json_file))}", highlight=False, soft_wrap=True)
    if request.plots is not None:
        with on_disk(request.plots):
            paths = write_plots(metrics, request.plots)
        console.print(
            f"{many(len(paths), 'plot')} in {escape(str(request.plots))}", highlight=False, soft_wrap=True
        )
    return metrics


def _check(request: Request) -> None:
    if (request.output is None) == (request.weights is None):
        raise JobError("give what to measure: a job's OUTPUT, or --weights with --images")
    if (request.weights is None) != (request.images is None):
        raise JobError("--weights and --images belong together: the model runs on the truth's images")
    of_weights = {
        "--score-threshold": request.score_threshold,
        "--precision": request.precision,
        "--device": request.device,
    }
    if request.weights is not None and request.only_run:
        raise JobError("--only-run belongs to a job's OUTPUT; --limit takes the truth's first images")
    given = [name for name, value in of_weights.items() if value is not None]
    if request.output is not None and given:
        raise JobError(f"{', '.join(given)} belongs to --weights; a job's tables are as the job made them")
    check_device(request.device)


def _of_weights(request: Request, truth: COCO, categories: Categories, console: Console) -> Subject:
    assert request.weights is not None
    assert request.images is not None
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = fetch_weights(request.weights, request.store, Path(folder))
        model = condinst.load(path, request.device or "cpu", request.precision or "float32")
        identity = {"weights": request.weights, "sha256": digest(path)}
    ids = categories.ids_of(model.config.classes)
    detect = _detect_config(model.config.detect, request)
    store = Store.open(request.images, request.store)
    results = list(predictions(model, detect, truth.dataset["images"], store, ids, console))
    settings = {"precision": request.precision or "float32", "detect": detect.model_dump(mode="json")}
    missing = categories.without(ids)
    notes = [f"the model has no class for {', '.join(missing)}: nothing of it is found"] if missing else []
    return Subject(results, identity | settings, notes, truth)


def _detect_config(own: DetectConfig, request: Request) -> DetectConfig:
    """The weights' settings, but for as many instances as are looked at."""
    update: dict[str, object] = {
        "max_instances": request.max_dets,
        "pre_nms_top_k": max(own.pre_nms_top_k, request.max_dets),
    }
    if request.score_threshold is not None:
        update["score_threshold"] = request.score_threshold
    return own.model_copy(update=update)


def _of_tables(request: Request, truth: COCO, categories: Categories, console: Console) -> Subject:
    assert request.output is not None
    run = open_run(request.output, request.store)
    console.print(f"reading {escape(run.store.uri)}", highlight=False, soft_wrap=True)
    notes = [] if run.complete else ["the run is not complete: what is committed so far is measured"]
    there = {image["id"] for image in images_in_both(run, truth).values()}
    if request.only_run:
        notes.append(
            f"{len(there):,} of the truth's {many(len(truth.imgs), 'image')}, those of the run, are measured"
        )
        truth = on_images(truth, there)
    else:
        notes += [f"{note}; --only-run leaves them out" for note in lacking(len(there), truth)]
    identity = {"output": run.store.uri, "sha256": run.job.get("model_digest")}
    return Subject(list(coco_results(run, truth, categories)), identity, notes, truth)


def _notes(request: Request, truth: COCO) -> list[str]:
    notes = []
    if not has_masks(truth):
        notes.append("the truth has no masks: boxes alone are measured")
    if (most := most_in_an_image(truth)) > request.max_dets:
        notes.append(
            f"an image of the truth has {most} instances of one category, of which --max-dets "
            f"{request.max_dets} can find no more than that many"
        )
    return notes


def _write_json(request: Request, truth: COCO, subject: Subject, metrics: list[Metrics]) -> None:
    assert request.json_file is not None
    figures = {KINDS[m.kind]: m.summary() for m in metrics}
    measured = subject.truth.dataset
    counts = {
        "images": len(measured["images"]),
        "instances": len(measured["annotations"]),
        "truth_images": len(truth.imgs),
    }
    said = {"truth": request.truth, **counts, **subject.identity, "notes": subject.notes, **figures}
    put_file(str(request.json_file), (json.dumps(said, indent=2) + "\n").encode(), request.store)
