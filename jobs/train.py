"""`condinst train`: from a spec and labelled images to weights, measured as they grow.

The same spec again goes on from the last checkpoint. Without `workers` everything happens in this process;
with them Ray Train runs the same `learn` in each.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.markup import escape

from condinst import weights
from condinst.finetune import Taken
from jobs import structured
from jobs.attendance import hearing, unattended
from jobs.device import require_cuda
from jobs.errors import Incomplete, JobError, one_line
from jobs.learn import Halted, Material, learn, material
from jobs.limits import Limits
from jobs.quantities import size
from jobs.resolve import options_of
from jobs.stopping import Stop, stop_on_signals
from jobs.train_files import BEST_KEY, BEST_WEIGHTS, LAST_WEIGHTS, SUMMARY_KEY, has, standing
from jobs.train_record import claim, placed, settled
from jobs.train_spec import TrainSpec, TrainWorkersSection
from jobs.train_worker import work
from pipeline.nouns import many
from pipeline.stopping import clear_cancel
from pipeline.storage import Store, StoreError
from pipeline.trainer import Group, WorkersFailed, run_group

TOLD = ("step", "seconds", "ap", "ap50", "ap75")
"""What of the best measurement the last event says."""
COUNTED = ("bad_images", "bad_val_images")
"""What of the summary it says."""


def train_job(spec: TrainSpec, console: Console | None = None) -> dict[str, object]:
    """Train, measure, and write the weights; returns the best measurement, as in `best.json`.

    Of a training that is done already only the measurement. Raises Refused where the output holds another
    training, JobError for data and weights that do not fit the spec and for a training that diverges,
    TooManyBad where more images cannot be used than `data.max_bad` allows, SampleError, WeightsError,
    StoreError, ClusterTooSmall, CheckpointError, Interrupted after a signal, at a limit or on a request to
    cancel, with a checkpoint of the last step, and Incomplete when the workers died too often.
    """
    limits = Limits.of(spec)
    console = console or structured.console()
    spec = placed(spec)
    if spec.workers is None and spec.device == "cuda":
        require_cuda("device", "set it to cpu")
    store = Store.open(spec.output.uri, options_of(spec.output))
    spec = settled(spec, standing(store))
    # Beside workers this process only looks at it: their GPUs are elsewhere.
    given = material(spec, console, "cpu" if spec.workers else spec.device)
    counts = {"images": len(given.samples), "instances": given.samples.instances}
    classes = {} if given.taken is None else {"classes": asdict(given.taken)}
    new = claim(store, spec, given.model.config, given.digests, {**counts, **classes})
    if not new and has(store, SUMMARY_KEY):
        console.print(f"{escape(store.uri)} holds this training, and it is done", soft_wrap=True)
    else:
        clear_cancel(store)  # whoever asked for it meant the runs before this one
        _announce(spec, given, console)
        _train(spec, given, store, limits, console)
    found: dict[str, object] = json.loads(store.get(BEST_KEY))
    console.print(f"weights in {escape(store.join(BEST_WEIGHTS))}", soft_wrap=True)
    summary = json.loads(store.get(SUMMARY_KEY))
    structured.event(
        "complete",
        output=store.uri,
        **{key: found.get(key) for key in TOLD},
        **{key: summary.get(key, 0) for key in COUNTED},
    )
    return found


def _train(spec: TrainSpec, given: Material, store: Store, limits: Limits, console: Console) -> None:
    stop = Stop(f"{spec.output.uri} keeps its last checkpoint: run the same command again to go on from it")
    listening = hearing(store, stop, partial(structured.warn, console))
    try:
        if spec.workers is None:
            with stop_on_signals(stop), limits.watch(stop, float(spec.device == "cuda")), listening:
                learn(spec, given, console, stop)
        else:
            with limits.watch(stop, spec.workers.count * spec.workers.gpus), listening:
                _with_workers(spec, spec.workers, given, stop, console)
    except Halted:
        stop.raise_if_set()
        raise
    except FloatingPointError as error:
        raise JobError(f"training diverged: {error}\n{_remedy(store)}") from None
    except WorkersFailed as error:
        raise Incomplete(f"{error}\nrun the same command again to go on from the last checkpoint") from None


def _with_workers(
    spec: TrainSpec, workers: TrainWorkersSection, given: Material, stop: Stop, console: Console
) -> None:
    payload = {
        "spec": spec.model_dump_json(),
        "digests": given.digests,
        "start": given.start,
        "width": console.width,
        "json": structured.is_on(),
    }
    as_text = partial(console.out, end="", highlight=False)
    say = structured.relay if structured.is_on() else as_text
    run_group(
        work,
        payload,
        _group(spec, workers),
        say,
        stop=stop,
        watching=lambda: stop_on_signals(stop),
        look=unattended(stop),
    )


def _remedy(store: Store) -> str:
    """What to do after a training that diverged: its output takes no other learning rate."""
    advice = "lower training.learning_rate, and name another output.uri: one output holds one training"
    measured = False
    with suppress(StoreError):
        measured = has(store, LAST_WEIGHTS)
    if not measured:
        return advice
    return (
        f"{advice}. It may start from what was measured here: model.weights: {store.join(LAST_WEIGHTS)}, or "
        f"{BEST_WEIGHTS} beside it, in place of the keys that describe a network"
    )


def _group(spec: TrainSpec, own: TrainWorkersSection) -> Group:
    memory = spec.resources.memory
    return Group(
        own.count,
        own.cpus,
        own.gpus,
        own.least,
        own.max_failures,
        memory=size(memory) if memory else 0,
        accelerator=spec.resources.accelerator,
        env=spec.env,
    )


def _announce(spec: TrainSpec, given: Material, console: Console) -> None:
    if given.taken is not None:
        _tell_classes(given.taken, console)
    size = weights.num_parameters(given.model.config) / 1e6
    by = "" if spec.workers is None else f" with {many(spec.workers.count, 'worker')}"
    console.print(
        f"training {size:.1f} M parameters on {many(len(given.samples), 'image')}, "
        f"{many(given.samples.instances, 'instance')} of {escape(', '.join(given.samples.classes))}{by}",
        highlight=False,
    )
    structured.event(
        "start",
        job=spec.name,
        output=spec.output.uri,
        images=len(given.samples),
        instances=given.samples.instances,
        classes=given.samples.classes,
        steps=spec.training.steps,
        workers=1 if spec.workers is None else spec.workers.count,
    )


def _tell_classes(taken: Taken, console: Console) -> None:
    """Say what became of the classes of `model.weights`: one that is misspelt begins from nothing."""
    for verb, names in (("keeps", taken.kept), ("begins", taken.new), ("drops", taken.dropped)):
        if names:
            console.print(f"{verb} {escape(one_line(', '.join(names)))}", highlight=False, soft_wrap=True)
    structured.event("classes", **asdict(taken))
