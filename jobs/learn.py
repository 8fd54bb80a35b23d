"""One process's part of a training: alone, or as one of a group that shares each step."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from condinst import CondInst, parallel, weights, weightsfile
from condinst.criterion import Criterion
from condinst.finetune import Taken, with_classes
from condinst.fit import fit
from condinst.sampling import Order
from condinst.training import Training
from condinst.views import Views
from jobs import structured
from jobs.attendance import attendance
from jobs.errors import JobError, naming, one_line
from jobs.exam import Exam, given_exam, held_exam, look
from jobs.held_truth import HELD_KEY, put_held_truth
from jobs.judge import Judge
from jobs.resolve import options_of
from jobs.structured import warn
from jobs.train_log import TrainLog
from jobs.train_record import MEASURED_ON, decisive, fingerprint
from jobs.train_spec import SourceSection, TrainSpec
from pipeline.badimages import BadImages
from pipeline.checkpoints import Checkpoints
from pipeline.models import resolved
from pipeline.nouns import many
from pipeline.samples import Samples, SampleSource
from pipeline.storage import Store, StoreOptions
from pipeline.weights import fetch_weights

__all__ = ["Halted", "Material", "learn", "material"]


class Halted(Exception):
    """The training ended after a step, as it was asked to; its checkpoint is put."""


@dataclass(frozen=True)
class Material:
    """What a training starts from."""

    samples: Samples
    exam: Exam
    model: CondInst
    digests: dict[str, str]
    """sha256 of what it reads: annotations, weights, the truth measured on; and of which images are left out,
    if any are."""
    start: str | None
    """Where the weights of `model.weights` lie: of a `current.json` the version."""
    taken: Taken | None = None
    """What became of the classes of those weights."""


def material(spec: TrainSpec, console: Console, device: str, start: str | None = None) -> Material:
    """Labelled images, without those measured on, and a model on a device that fit the spec.

    `start` is where the weights lie that `model.weights` named when the training began; default: as it says
    now. Raises JobError, SampleError, WeightsError, ModelsError, StoreError.
    """
    sources = [_source(section) for section in spec.data.train]
    samples = Samples(sources, spec.data.classes, hold=spec.data.held_out or 0.0)
    _tell_unlisted(samples, console)
    _tell_shared(samples, console)
    if spec.loss.mask != "boxinst" and not samples.has_masks:
        raise JobError("data.train: has instances with a box and no mask; set loss.mask to boxinst")
    exam = _exam(spec, samples, console)
    torch.manual_seed(spec.seed)
    if spec.model.weights is not None:
        start = start or resolved(spec.model.weights, StoreOptions())
    model, parents, taken = _model(spec, samples.classes, device, start)
    digests = {**samples.digests, MEASURED_ON: exam.digest, **parents}
    return Material(samples, exam, model, digests, start, taken)


def _tell_unlisted(samples: Samples, console: Console) -> None:
    for labels, count in samples.unlisted.items():
        warn(console, f"{labels}: left out: {many(count, 'annotation')} of images that it does not list")


def _tell_shared(samples: Samples, console: Console) -> None:
    for (earlier, later), count in samples.replaced.items():
        console.print(
            escape(one_line(f"{later} takes the place of {earlier} for {many(count, 'image')}")),
            highlight=False,
            soft_wrap=True,
        )
        structured.event("replaced", labels=earlier, by=later, images=count)
    for (earlier, later), places in samples.shared.items():
        warn(
            console,
            f"{many(len(places), 'image')} of {later} also in {earlier} (such as {places[0]}): each counts "
            "with both labels; `replaces: true` on the later source has its labels alone count",
        )


def _exam(spec: TrainSpec, samples: Samples, console: Console) -> Exam:
    """What is measured on; none of its images stays among the samples."""
    if spec.data.val is None:
        return held_exam(samples)
    exam = given_exam(spec.data.val, samples.classes)
    if exam.ignored:
        warn(console, f"data.val: not measured, as no class of the model: {', '.join(exam.ignored)}")
    if count := samples.leave_out((store, str(row["file_name"])) for store, row in exam.images):
        warn(console, f"{many(count, 'image')} of data.train also in data.val, and not learned from")
    return exam


def learn(
    spec: TrainSpec, given: Material, console: Console, stopping: Callable[[], bool] = lambda: False
) -> None:
    """Train from the last checkpoint, or from the start, to the end; the first process writes the output.

    `stopping` is asked after each step: where any process is told to stop, all do, with a checkpoint of it.
    Images that cannot be used are left out. All that are measured on are looked at before the first step.

    Raises Halted then; FloatingPointError when training diverges, TooManyBad, and what reading images and
    writing the output raise.
    """
    torch.set_num_threads(spec.workers.cpus if spec.workers else spec.threads)
    store = Store.open(spec.output.uri, options_of(spec.output))
    training = Training(given.model, Criterion(spec.loss).to(given.model.device), spec.training)
    lineage = _lineage(spec, given)
    exam, bad = _looked_at(spec, given, console)
    if spec.data.held_out and parallel.rank() == 0:
        _put_held_truth(exam, store, console)
    judge = Judge(spec, store, exam, lineage, console)
    log = TrainLog(spec, given.samples.classes, store, console)
    keeper = _Keeper(spec, store, judge, log, bad)
    keeper.resume(training, given.samples, console)
    order = Order(given.samples.counts, tuple(s.weight for s in spec.data.train), spec.seed)
    load = partial(bad.attempt, read=given.samples.__getitem__)
    sizes = given.samples.sizes
    views = Views(load, order, given.model.config, spec.loss, spec.augment, sizes)
    batches = views.batches(
        spec.batch,
        first_step=training.step,
        accumulate=spec.training.accumulate,
        rank=parallel.rank(),
        world=parallel.world(),
        threads=spec.decoders,
    )

    def stepped(step: int, terms: dict[str, float]) -> None:
        log.step(step, terms)
        if step < spec.training.steps and parallel.any_of(stopping(), given.model.device):
            _share(bad, training.model.device)
            keeper.put(training)
            parallel.any_of(False, given.model.device)  # none ends, and the others with it, before it is put
            raise Halted(f"step {step:,}")

    with attendance(store, lambda: log.said) if parallel.rank() == 0 else nullcontext():
        fit(training, training.criterion, batches, spec.training, stepped, keeper)
        if parallel.rank() == 0:
            worse = len(given.exam.images) - len(exam.images)
            counts = {"bad_images": len(bad.reasons), "bad_val_images": worse}
            log.conclude(judge.measured, parallel.world(), counts)


def _looked_at(spec: TrainSpec, given: Material, console: Console) -> tuple[Exam, BadImages]:
    """What can be measured on; and, of the images learned from, those that are found to be bad: none yet."""
    tell = partial(warn, console)
    bad, bad_exam = (
        BadImages(name, images, spec.data.max_bad, tell)
        for name, images in (
            ("data.train", len(given.samples)),
            ("data.val" if spec.data.val else "data.held_out", len(given.exam.images)),
        )
    )
    look(given.exam, bad_exam, spec.decoders, console)
    _share(bad_exam, given.model.device)
    return given.exam.without(bad_exam.reasons), bad


def _put_held_truth(exam: Exam, output: Store, console: Console) -> None:
    root = put_held_truth(exam, output)
    if root is None:
        warn(console, f"no {HELD_KEY} is written: the sources' images lie below no common folder or prefix")
    else:
        text = f"what is measured on is in {output.join(HELD_KEY)}; its images start at {root}"
        console.print(escape(one_line(text)), highlight=False, soft_wrap=True)


def _share(bad: BadImages, device: torch.device) -> None:
    """Have every process know the images that any has found to be bad; all must ask. Raises TooManyBad."""
    for part in parallel.gather_bytes(json.dumps(bad.reasons).encode(), device):
        reasons: Mapping[str, str] = json.loads(part)
        bad.add({int(number): reason for number, reason in reasons.items()})


class _Keeper:
    """Measures where it is time to, and puts the checkpoint after that.

    Where measuring fails the checkpoint is put all the same, and who goes on from it measures first.
    """

    def __init__(self, spec: TrainSpec, store: Store, judge: Judge, log: TrainLog, bad: BadImages) -> None:
        self._spec, self._judge, self._log, self._bad = spec, judge, log, bad
        self._checkpoints = Checkpoints(store, secrets.token_hex(4))

    def resume(self, training: Training, samples: Samples, console: Console) -> None:
        """Put the training where the newest checkpoint left it, if there is one.

        Images that were bad then are tried again: they may have been put right.
        """
        found = self._checkpoints.latest()
        if found is None:
            return
        try:
            training.restore(found.tensors, found.state["counters"])
        except (ValueError, KeyError) as error:
            raise JobError(f"the checkpoint of step {found.step} does not fit: {error}") from None
        self._judge.resume(found.state["measured"], float(found.state["seconds"]))
        self._log.resume(training.step)
        console.print(f"going on from step {training.step:,}", highlight=False)
        structured.event("resumed", step=training.step)
        for number in found.state.get("bad", ())[parallel.rank() :: parallel.world()]:
            self._bad.attempt(number, samples.__getitem__)
        if self._judge.is_due(training):
            self._measure(training)

    def __call__(self, training: Training) -> None:
        # Not where measuring may have failed in one of the processes: the others would wait for it.
        _share(self._bad, training.model.device)
        try:
            if self._judge.is_due(training):
                self._measure(training)
        finally:
            self.put(training)

    def put(self, training: Training) -> None:
        """The checkpoint of a step, and the log up to it."""
        if parallel.rank() > 0:
            return
        self._log.flush()
        state = {
            "counters": training.counters(),
            "measured": self._judge.measured,
            "seconds": self._judge.seconds,
            "bad": sorted(self._bad.reasons),
        }
        self._checkpoints.put(training.step, training.tensors(), state)
        structured.event("checkpoint", step=training.step)

    def _measure(self, training: Training) -> None:
        model = self._judge.measure(training)
        if parallel.rank() == 0:
            examples = self._judge.exam.examples(model, self._spec.samples)
            self._log.measured(self._judge.measured[-1], examples)


def _lineage(spec: TrainSpec, given: Material) -> dict[str, str]:
    """Where the weights come from, for their file."""
    data = {k: v for k, v in given.digests.items() if k != "weights"}
    return {
        "trained_by": spec.name,
        "training": fingerprint(decisive(spec, given.digests)),
        "data": hashlib.sha256("".join(f"{k}={v};" for k, v in sorted(data.items())).encode()).hexdigest(),
        "parent": given.digests.get("weights", "none"),
        "images": str(len(given.samples)),
    }


def _source(section: SourceSection) -> SampleSource:
    return SampleSource(
        section.labels,
        section.uri,
        section.boxes_only,
        options_of(section),
        run=section.run is not None,
        min_score=section.min_score,
        replaces=section.replaces,
    )


def _model(
    spec: TrainSpec, classes: tuple[str, ...], device: str, start: str | None
) -> tuple[CondInst, dict[str, str], Taken | None]:
    """The network that training starts from, on a device; the digest of the weights it took over; and what
    became of their classes.
    """
    parents: dict[str, str] = {}
    taken = None
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        if start is not None:
            with naming("model.weights"):
                path = fetch_weights(start, StoreOptions(), Path(folder))
                loaded = weights.load_for_training(path)
                parents["weights"] = weightsfile.digest(path)
            model, taken = _adapted(spec, loaded, classes)
        else:
            try:
                model = CondInst(spec.model.config(classes))
            except ValueError as error:
                raise JobError(f"model: {error}") from None
            if spec.model.backbone_weights is not None:
                with naming("model.backbone_weights"):
                    path = fetch_weights(spec.model.backbone_weights, StoreOptions(), Path(folder))
                    weights.load_backbone(model, path)
                    parents["weights"] = weightsfile.digest(path)
    if spec.loss.semantic and not model.config.mask.semantic:
        raise JobError(f"loss.semantic: {spec.model.weights} has no semantic head; set it to false")
    model.backbone.freeze(spec.model.freeze)
    moved: CondInst = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved, parents, taken


def _adapted(spec: TrainSpec, model: CondInst, classes: tuple[str, ...]) -> tuple[CondInst, Taken]:
    """Another model made to fit the spec's classes, input and detection; and what became of its classes."""
    model, taken = with_classes(model, classes)
    model.config = model.config.model_copy(update=spec.model.stated())
    return model, taken
