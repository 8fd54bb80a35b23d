"""`condinst promote`: a new model takes the place of the current one only if it is better, beyond chance."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from rich.console import Console
from rich.markup import escape

import condinst
from condinst import weightsfile
from condinst.bootstrap import Comparison, Matches, compare, match
from condinst.evaluate import Kind
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
    """Weights to compare with. Default: the current version, which the new ones must beat in any case."""
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

    place: str
    """Where its weights are, as the user or the store calls it."""
    sha256: str
    notes: dict[str, str]
    data: bytes
    classes: tuple[str, ...]
    matches: Matches


@dataclass(frozen=True)
class _Beaten:
    """A model that the new one is better than, for sure."""

    place: str
    found: Comparison
    left_out: list[str]
    """Categories of the truth that had no part in it."""

    @property
    def record(self) -> dict[str, Any]:
        return {"against": self.place, "comparison": asdict(self.found), "left_out": self.left_out}

    def __str__(self) -> str:
        found = self.found
        return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] against {self.place}"


def promote(request: Request, console: Console | None = None) -> ExitCode:
    """Measure both on the same images; make the new one current where the interval is above the margin.

    Where others than the current weights were named, it must be above that of both: it takes the current
    version's place, not the place of those.

    Returns DONE when it was promoted (or would be, of a dry run), NOT_BETTER when it was not. Raises JobError
    for data, weights and a device that do not do, WeightsError, SampleError, ModelsError, StoreError.
    """
    console = console or Console()
    check_device(request.device)
    models = Models(Store.open(f"{request.models.rstrip('/')}/{request.name}", request.store))
    current = models.current()
    held = None if current is None else models.store.join(current.file)
    against = request.against or held
    truth = read_truth(request.truth, request.store, called="--on")
    enough = len({a["image_id"] for a in truth.dataset["annotations"] if not a["iscrowd"]})
    _require_enough(enough, request)
    new = _measure(request, request.new, truth, console, unmeasured=False)
    if math.isnan(ap := new.matches.ap()):
        raise JobError(f"{request.truth}: has no instance to measure AP on; crowd regions do not count")
    if against is None:
        console.print(f"AP {ap:.4f}; there is no version yet to compare with", highlight=False)
        return _move(request, models, current, new, {"ap": ap}, "the first version", console)
    old = _measure(request, against, truth, console)
    won = _beats(request, truth, new, old, console)
    if won is None:
        return ExitCode.NOT_BETTER
    record = {"ap": ap, **won.record}
    why = f"AP {won}"
    if current is not None and held is not None and current.sha256 not in (new.sha256, old.sha256):
        console.print(
            f"{escape(against)} is not the current version, {current.version}, which must be beaten, too",
            highlight=False,
            soft_wrap=True,
        )
        beaten = _beats(request, truth, new, _measure(request, held, truth, console), console)
        if beaten is None:
            console.print(
                f"it would take the place of version {current.version}; `condinst rollback "
                f"{escape(request.name)} --to VERSION` goes back to an earlier one",
                highlight=False,
                soft_wrap=True,
            )
            return ExitCode.NOT_BETTER
        record["current"] = beaten.record
        why += f", {beaten}"
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


def _require_enough(found: int, request: Request, of: str = "") -> None:
    """Raise JobError for a truth on which a difference says nothing: of one image every draw is the same."""
    if found < request.min_images:
        raise JobError(
            f"{request.truth}: {found} of its images have instances{of}; a model is promoted on "
            f"{request.min_images} at least (--min-images)"
        )


def _measure(
    request: Request, place: str, truth: COCO, console: Console, unmeasured: bool = True
) -> _Measured:
    """Run a model on the truth's images. `unmeasured`: it may have classes that the truth lacks.

    Raises JobError for one that may not, and has.
    """
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        path = weightsfile.resolve(fetch_weights(place, request.store, Path(folder)))
        model = condinst.load(path, request.device)
        data, notes, sha256 = path.read_bytes(), weightsfile.read_notes(path), weightsfile.digest(path)
    ids = _ids(truth)
    lacking = [name for name in model.config.classes if name not in ids]
    if lacking and not unmeasured:
        raise JobError(
            f"{place}: its class {lacking[0]!r} is not among the categories of {request.truth}, "
            f"{_named(ids)}, so nothing says how good it is at it. A new model is measured in all its "
            "classes: name another truth with --on, or add the category to this one (without an instance it "
            "has no part in the AP)"
        )
    most = max(request.max_dets, model.config.detect.max_instances)
    detect = model.config.detect.model_copy(update={"max_instances": most})
    images = Store.open(request.images, request.store)
    nowhere = max(ids.values(), default=0) + 1
    category_ids = [ids.get(name, nowhere) for name in model.config.classes]
    found = predictions(model, detect, truth.dataset["images"], images, category_ids, console)
    results = (result for result in found if result["category_id"] != nowhere)
    kind: Kind = "segm" if has_masks(truth) else "bbox"
    matches = match(truth, results, kind, request.max_dets)
    return _Measured(place, sha256, notes, data, model.config.classes, matches)


def _beats(request: Request, truth: COCO, new: _Measured, old: _Measured, console: Console) -> _Beaten | None:
    """What the comparison came to; None where the new one is not better for sure. Both are told.

    Raises JobError where the truth has no class of the old one, or too few images for those it has.
    """
    ids = _ids(truth)
    lost = [name for name in old.classes if name not in ids]
    unknown = [name for name in ids if name not in old.classes]
    if len(unknown) == len(ids):
        raise JobError(
            f"{old.place}: none of its classes, {_named(old.classes)}, is among the categories of "
            f"{request.truth}, {_named(ids)}, so nothing can be compared; name a truth of both models with "
            "--on, or promote under another --name"
        )
    # What it calls otherwise may be the same thing: that would be missed without any fault of its own.
    left_out = unknown if lost else []
    kept = [n for n, name in enumerate(sorted(ids, key=lambda name: ids[name])) if name not in left_out]
    ours, theirs = new.matches.only(kept), old.matches.only(kept)
    for note in _notes(ids, new, old, lost, left_out):
        console.print(f"note: {escape(note)}", style="yellow", highlight=False, soft_wrap=True)
    _require_enough(ours.with_instances, request, f" of the classes of {old.place}" if left_out else "")
    found = compare(
        ours, theirs, resamples=request.resamples, confidence=request.confidence, seed=request.seed
    )
    _say(found, console)
    if not found.low > request.margin:
        of = f" against {escape(old.place)}" if request.against else ""
        console.print(
            f"not promoted: the interval{of} does not lie above {request.margin:g}",
            highlight=False,
            soft_wrap=True,
        )
        return None
    return _Beaten(old.place, found, left_out)


def _notes(
    ids: Mapping[str, int], new: _Measured, old: _Measured, lost: Sequence[str], left_out: Sequence[str]
) -> list[str]:
    """What to know of the figures: classes that one of the models or the truth does not have."""
    notes = []
    if lost:
        notes.append(f"{old.place} has the classes {_named(lost)}, which the truth lacks: not measured")
    if left_out:
        notes.append(f"it has none for {_named(left_out)}: left out of the comparison")
    for model in (new, old):
        missing = [name for name in ids if name not in (*model.classes, *left_out)]
        if missing:
            notes.append(f"{model.place} has no class for {_named(missing)}: nothing of it is found")
    return notes


def _ids(truth: COCO) -> dict[str, int]:
    return {category["name"]: category["id"] for category in truth.dataset["categories"]}


def _named(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _say(found: Comparison, console: Console) -> None:
    console.print(
        f"AP {found.new:.4f} against {found.old:.4f}: {found.difference:+.4f}, {found.confidence:.0%} "
        f"interval [{found.low:+.4f}, {found.high:+.4f}], better in {found.better:.1%} of "
        f"{found.resamples:,} resamples",
        highlight=False,
        soft_wrap=True,
    )
