"""`condinst train`: from a spec and labelled images to weights, measured as they grow."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from condinst import weights
from condinst.criterion import Criterion
from condinst.evaluate import Metrics, evaluate
from condinst.finetune import with_classes
from condinst.fit import fit
from condinst.model import CondInst
from condinst.views import training_batches
from jobs.curves import write_curves
from jobs.errors import JobError, Refused
from jobs.figures import print_metrics
from jobs.predictions import predictions
from jobs.report import versions
from jobs.resolve import options_of
from jobs.train_log import TrainLog
from jobs.train_spec import SourceSection, TrainSpec
from jobs.truth import has_masks, read_truth
from pipeline.samples import Samples, SampleSource
from pipeline.storage import Store, StoreOptions
from pipeline.weights import fetch_weights

JOB_KEY = "train.json"


def train_job(spec: TrainSpec, console: Console | None = None) -> dict[str, object]:
    """Train, measure, and write the weights; returns the best measurement, as in `best.json`.

    Raises Refused where the output holds a training already, JobError for data and weights that do not fit
    the spec, SampleError, WeightsError, StoreError, FloatingPointError when training diverges.
    """
    console = console or Console()
    _check_device(spec)
    store = Store.open(spec.output.uri, options_of(spec.output))
    samples = Samples([_source(section) for section in spec.data.train], spec.data.classes)
    if spec.loss.mask != "boxinst" and not samples.has_masks:
        raise JobError("data.train: has instances with a box and no mask; set loss.mask to boxinst")
    torch.manual_seed(spec.seed)
    torch.set_num_threads(spec.threads)
    model = _model(spec, samples.classes, console)
    if not store.create(JOB_KEY, json.dumps(_record(spec, samples, model), indent=2).encode()):
        raise Refused(f"{store.uri} holds a training already; name another output")
    judge = Judge(spec, store, samples.classes, console)
    log = TrainLog(spec, console)
    console.print(
        f"training {weights.num_parameters(model.config) / 1e6:.1f} M parameters on {len(samples):,} images, "
        f"{samples.instances:,} instances of {escape(', '.join(samples.classes))}",
        highlight=False,
    )
    random = np.random.default_rng(spec.seed)
    batches = training_batches(
        samples.__getitem__, len(samples), model.config, spec.loss, spec.augment, spec.batch, random
    )
    fit(model, Criterion(spec.loss), batches, spec.training, log.step, judge)
    write_curves(store, log.steps, judge.measured)
    return judge.conclude()


class Judge:
    """Measures the model as it grows, on images that it does not learn from, and keeps the best."""

    def __init__(self, spec: TrainSpec, store: Store, classes: tuple[str, ...], console: Console) -> None:
        self._spec, self._store, self._console = spec, store, console
        section = spec.data.val
        self._truth = read_truth(section.annotations, options_of(section))
        self._images = Store.open(section.uri, options_of(section))
        ids = {c["name"]: int(c["id"]) for c in self._truth.dataset["categories"]}
        if missing := [name for name in classes if name not in ids]:
            raise JobError(f"data.val: {section.annotations} has no category {', '.join(missing)}")
        self._ids = [ids[name] for name in classes]
        self.measured: list[dict[str, float]] = []
        self._best: tuple[float, Metrics] | None = None
        self._began = time.monotonic()

    def __call__(self, step: int, model: CondInst) -> None:
        """Measure the averaged model of a step, and put its weights as the last, perhaps as the best."""
        metrics = self._measure(model)
        at = {"step": step, "seconds": round(time.monotonic() - self._began, 1)}
        self.measured.append({**at, "ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75})
        self._console.print(
            f"step {step}: {metrics.kind} AP {metrics.ap:.4f}, AP50 {metrics.ap50:.4f}", highlight=False
        )
        with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
            path = Path(folder) / "weights.safetensors"
            notes = {"trained_by": self._spec.name, "step": str(step), "ap": f"{metrics.ap:.4f}"}
            weights.save(model, path, notes=notes)
            data = path.read_bytes()
        self._store.put("last.safetensors", data)
        if self._best is None or metrics.ap > self._best[0]:
            self._best = (metrics.ap, metrics)
            self._store.put("best.safetensors", data)
            said = {**at, "images": len(self._truth.imgs), **metrics.summary()}
            self._store.put("best.json", json.dumps(said, indent=2).encode())
        lines = "".join(json.dumps(line) + "\n" for line in self.measured)
        self._store.put("measured.jsonl", lines.encode())

    def conclude(self) -> dict[str, object]:
        """Print the best measurement; returns it."""
        assert self._best is not None
        print_metrics([self._best[1]], self._truth, self._console)
        self._console.print(f"weights in {escape(self._store.join('best.safetensors'))}", soft_wrap=True)
        found: dict[str, object] = json.loads(self._store.get("best.json"))
        return found

    def _measure(self, model: CondInst) -> Metrics:
        quiet = Console(quiet=True)
        detect = model.config.detect.model_copy(
            update={"max_instances": max(self._spec.max_dets, model.config.detect.max_instances)}
        )
        images = self._truth.dataset["images"]
        results = list(predictions(model, detect, images, self._images, self._ids, quiet))
        kind = "segm" if has_masks(self._truth) else "bbox"
        return evaluate(self._truth, results, kind, self._spec.max_dets)  # type: ignore[arg-type]


def _check_device(spec: TrainSpec) -> None:
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise JobError("device: torch finds no CUDA device here; set it to cpu")


def _source(section: SourceSection) -> SampleSource:
    return SampleSource(section.annotations, section.uri, section.boxes_only, options_of(section))


def _model(spec: TrainSpec, classes: tuple[str, ...], console: Console) -> CondInst:
    """The network that training starts from, on the job's device."""
    with tempfile.TemporaryDirectory(prefix="condinst-") as folder:
        if spec.model.weights is not None:
            path = fetch_weights(spec.model.weights, StoreOptions(), Path(folder))
            model = _adapted(spec, weights.load_for_training(path), classes, console)
        else:
            try:
                model = CondInst(spec.model.config(classes))
            except ValueError as error:
                raise JobError(f"model: {error}") from None
            if spec.model.backbone_weights is not None:
                path = fetch_weights(spec.model.backbone_weights, StoreOptions(), Path(folder))
                weights.load_backbone(model, path)
    if spec.loss.semantic and not model.config.mask.semantic:
        raise JobError(f"loss.semantic: {spec.model.weights} has no semantic head; set it to false")
    model.backbone.freeze(spec.model.freeze)
    moved: CondInst = model.to(spec.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _adapted(spec: TrainSpec, model: CondInst, classes: tuple[str, ...], console: Console) -> CondInst:
    """Another model made to fit the spec's classes, input and detection; says what became of its classes."""
    model, taken = with_classes(model, classes)
    for verb, names in (("keeps", taken.kept), ("begins", taken.new), ("drops", taken.dropped)):
        if names:
            console.print(f"{verb} {', '.join(map(escape, names))}", highlight=False)
    model.config = model.config.model_copy(update=spec.model.stated())
    return model


def _record(spec: TrainSpec, samples: Samples, model: CondInst) -> dict[str, object]:
    return {
        "kind": spec.kind,
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "model": model.config.model_dump(mode="json"),
        "images": len(samples),
        "instances": samples.instances,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
    }
