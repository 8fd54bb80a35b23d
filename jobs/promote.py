"""`condinst promote`: a new model takes the place of the current one only if it is better, beyond chance."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape

import condinst
from condinst import weightsfile
from condinst.bootstrap import Comparison, Matches, compare, match
from jobs.categories import Categories
from jobs.device import check_device
from jobs.errors import ExitCode, JobError
from jobs.predictions import predictions
from jobs.truth import has_masks, read_truth
from pipeline.models import Current, Models
from pipeline.storage import Store, StoreOptions
from pipeline.weights import fetch_weights

__all__ = ["Request", "promote", "rollback"]


@dataclass(frozen=True)
class Request:
    """Which model, against which, on what."""

    new: str
    truth: str
    images: str
    models: str
    name: str
    against: str | None = None
    """Weights to compare with. Default: the current version."""
    max_dets: int = 100
    margin: float = 0.0
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    min_images: int = 10
    """Fewest images with instances that anything is promoted on."""
    dry_run: bool = False
    device: str = "cpu"
    store: StoreOptions = field(default_factory=StoreOptions)


@dataclass(frozen=True)
class _Measured:
    """A model on the data."""

    sha256: str
    notes: dict[str, str]
    data: bytes
    matches: Matches


def promote(request: Request, console: Console | None = None) -> ExitCode:
    """Measure both on the same images; make the new one current where the interval is above the margin.

    Returns DONE when it was promoted (or would be, of a dry run), NOT_BETTER when it was not. Raises JobError
    for data, weights and a device that do not do, WeightsError, SampleError, ModelsError, StoreError.
    """
    console = console or Console()
    check_device(request.device)
    models = Models(Store.open(f"{request.models.rstrip('/')}/{request.name}", request.store))
    current = models.current()
    against = request.against or _file_of(models, current)
    truth = read_truth(request.truth, request.store, called="--on")
    _require_enough(truth, request)
    new = _measure(request, request.new, truth, console)
    if math.isnan(ap := new.matches.ap()):
        raise JobError(f"{request.truth}: has no instance to measure AP on; crowd regions do not count")
    if against is None:
        console.print(f"AP {ap:.4f}; there is no version yet to compare with", highlight=False)
        return _move(request, models, current, new, {"ap": ap}, "the first version", console)
    found = compare(
        new.matches,
        _measure(request, against, truth, console).matches,
        resamples=request.resamples,
        confidence=request.confidence,
        seed=request.seed,
    )
    _say(found, console)
    if not found.low > request.margin:
        console.print(f"not promoted: the interval does not lie above {request.margin:g}", highlight=False)
        return ExitCode.NOT_BETTER
    record = {"ap": found.new, "against": against, "comparison": asdict(found)}
    why = f"AP {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] against {against}"
    return _move(request, models, current, new, record, why, console)


def rollback(
    models_uri: str, name: str, options: StoreOptions, to: int | None = None, console: Console | None = None
) -> None:
    """Make the version before the current one current again, or version `to`; twice goes back by two.

    Raises ModelsError, JobError.
    """
    console = console or Console()
    models = Models(Store.open(f"{models_uri.rstrip('/')}/{name}", options))
    current = models.current()
    if current is None:
        raise JobError(f"{models.store.uri}: nothing was promoted there, so there is nothing to go back from")
    version = models.before(current) if to is None else to
    models.record(version)
    models.move(version, current, f"rollback from version {current.version}", rollback=True)
    console.print(
        f"version {version} of {escape(name)} is current again, in the place of {current.version}",
        highlight=False,
    )


def _move(
    request: Request,
    models: Models,
    current: Current | None,
    new: _Measured,
    record: dict[str, Any],
    why: str,
    console: Console,
) -> ExitCode:
    if current is not None and current.sha256 == new.sha256:
        if not request.dry_run:
            models.repeat()
        console.print(f"these weights are current already: version {current.version}", highlight=False)
        return ExitCode.DONE
    if request.dry_run:
        console.print("would be promoted", highlight=False)
        return ExitCode.DONE
    said = {**record, "data": request.truth, "images": new.matches.images, "notes": new.notes}
    version = models.add(new.data, said)
    models.move(version, current, why)
    console.print(
        f"promoted: version {version} of {escape(request.name)}, {escape(models.store.join('current.json'))}",
        highlight=False,
        soft_wrap=True,
    )
    return ExitCode.DONE


def _file_of(models: Models, current: Current | None) -> str | None:
    return None if current is None else models.store.join(current.file)


def _require_enough(truth: COCO, request: Request) -> None:
    """Raise JobError for a truth on which a difference says nothing: of one image every draw is the same."""
    found = len({a["image_id"] for a in truth.dataset["annotations"] if not a["iscrowd"]})
    if found < request.min_images:
        raise JobError(
            f"{request.truth}: {found} of its images have instances; a model is promoted on "
            f"{request.min_images} at least (--min-images)"
        )


def _measure(request: Request, place: str, truth: COCO, console: Console) -> _Measured:
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = weightsfile.resolve(fetch_weights(place, request.store, Path(folder)))
        model = condinst.load(path, request.device)
        data, notes, sha256 = path.read_bytes(), weightsfile.read_notes(path), weightsfile.digest(path)
    ids = Categories(truth).ids_of(model.config.classes)
    most = max(request.max_dets, model.config.detect.max_instances)
    detect = model.config.detect.model_copy(update={"max_instances": most})
    images = Store.open(request.images, request.store)
    results = predictions(model, detect, truth.dataset["images"], images, ids, console)
    kind = "segm" if has_masks(truth) else "bbox"
    return _Measured(sha256, notes, data, match(truth, results, kind, request.max_dets))  # type: ignore[arg-type]


def _say(found: Comparison, console: Console) -> None:
    console.print(
        f"AP {found.new:.4f} against {found.old:.4f}: {found.difference:+.4f}, {found.confidence:.0%} "
        f"interval [{found.low:+.4f}, {found.high:+.4f}], better in {found.better:.1%} of "
        f"{found.resamples:,} resamples",
        highlight=False,
        soft_wrap=True,
    )
