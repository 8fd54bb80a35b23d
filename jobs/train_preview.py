"""`condinst plan` of a training: what it would learn from, how long, and how far it is. Writes nothing."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from condinst import weights
from condinst.sampling import Order
from jobs.errors import JobError, one_line
from jobs.learn import Material, material
from jobs.progress import duration
from jobs.resolve import options_of
from jobs.target import open_target
from jobs.train_files import standing as record_of
from jobs.train_record import free_for_training, placed, refuse_other_training, settled
from jobs.train_spec import TrainSpec
from jobs.train_status import TrainingLook, look
from pipeline.labels import SampleError
from pipeline.storage import Store, StoreOptions

CHECKED = 10
"""Images that `--check` decodes."""
CLASSES = 12
"""Classes that are named, the most frequent first."""


def preview_training(
    spec: TrainSpec, console: Console | None = None, *, like: str | None = None, check: bool = False
) -> None:
    """Print what `train` would do with this spec, and what it would take by the pace of the training `like`.

    Labels and weights are read; `check` also decodes some of the images. Raises what `train` would raise
    before its first step: Refused, JobError, SampleError, WeightsError, StoreError.
    """
    console = console or Console()
    spec = placed(spec)
    store = Store.open(spec.output.uri, options_of(spec.output))
    paced = look(open_target(like, StoreOptions())) if like else None
    if like and paced is None:
        raise JobError(f"--like: {like} holds no training")
    standing = look(store)
    spec = settled(spec, record_of(store))
    given = material(spec, console, "cpu")
    if standing is None:
        free_for_training(store)
    else:
        refuse_other_training(store, spec, given.digests)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for heading, words in _rows(spec, given, standing, paced or standing):
        table.add_row(f"[bold]{heading}[/]" if heading == "training" else heading, escape(one_line(words)))
    console.print(table)
    if standing is not None and standing.state == "complete":
        console.print("complete: a run would do nothing", highlight=False)
    if check:
        _check(given, console)


def _rows(
    spec: TrainSpec, given: Material, standing: TrainingLook | None, paced: TrainingLook | None
) -> list[tuple[str, str]]:
    samples, training = given.samples, spec.training
    found = sorted(samples.by_class.items(), key=lambda item: -item[1])
    named = ", ".join(f"{count:,} {name}" for name, count in found[:CLASSES])
    more = f" and {len(found) - CLASSES:,} classes more" if len(found) > CLASSES else ""
    order = Order(samples.counts, tuple(source.weight for source in spec.data.train), spec.seed)
    epochs = training.steps * spec.batch / order.epoch
    exam = "data.val" if spec.data.val else f"data.held_out, {spec.data.held_out:g} of the images"
    size = weights.num_parameters(given.model.config) / 1e6
    rows = [
        ("training", spec.name),
        ("learns from", f"{len(samples):,} images, {samples.instances:,} instances: {named}{more}"),
        ("measured on", f"{len(given.exam.images):,} images ({exam})"),
        ("model", f"{size:.1f} M parameters, from {given.start or 'a random start'}; {training.precision}"),
    ]
    if given.taken is not None:
        of = {"keeps": given.taken.kept, "begins": given.taken.new, "drops": given.taken.dropped}
        rows.append(
            ("classes", "; ".join(f"{verb} {', '.join(names)}" for verb, names in of.items() if names))
        )
    rows += [
        ("steps", f"{training.steps:,} of {spec.batch:,} views: {epochs:.1f} times through the images"),
        ("workers", _workers(spec)),
        ("output", spec.output.uri),
    ]
    done = standing.step if standing else 0
    if standing is not None:
        kept = f"goes on from step {standing.checkpoint:,}" if standing.checkpoint else "nothing is kept yet"
        rows.append(("stands", f"{standing.state}; {kept}"))
    if training.steps > done:
        rows.append(("estimate", _estimate(spec, training.steps - done, paced)))
    return rows


def _workers(spec: TrainSpec) -> str:
    own = spec.workers
    if own is None:
        return f"this process, on {spec.device}"
    each = f"{own.cpus} CPU" + (f" and {own.gpus:g} GPU" if own.gpus else "")
    number = f"{own.count}" if own.least is None else f"{own.least} to {own.count}"
    return f"{number} of {each}"


def _estimate(spec: TrainSpec, steps: int, paced: TrainingLook | None) -> str:
    if paced is None or not paced.images_per_second:
        return "none: nothing was trained yet to measure; give a like training's output as --like"
    seconds = steps * spec.batch / paced.images_per_second
    pace = f"{paced.images_per_second:.1f} images/s as in {paced.output}"
    return f"{duration(seconds)} of steps{_gpus(spec, seconds)}, at {pace}; measurements come on top"


def _gpus(spec: TrainSpec, seconds: float) -> str:
    """Their hours, and what these cost."""
    gpus = float(spec.device == "cuda") if spec.workers is None else spec.workers.count * spec.workers.gpus
    if not gpus:
        return ""
    hours = gpus * seconds / 3600
    price = "" if spec.price_per_gpu_hour is None else f", ${hours * spec.price_per_gpu_hour:,.2f}"
    most = spec.max_gpu_hours
    beyond = (
        "" if most is None or hours <= most else f" (more than max_gpu_hours, {most:g}: it will stop there)"
    )
    return f", {hours:.2f} GPU hours{price}{beyond}"


def _check(given: Material, console: Console) -> None:
    """Decode some of the images. Raises JobError when none can be."""
    samples, good = given.samples, 0
    chosen = [number * len(samples) // CHECKED for number in range(CHECKED)]
    for number in dict.fromkeys(chosen):
        try:
            labelled = samples[number]
        except SampleError as error:
            said = str(error)
        else:
            good += 1
            height, width = labelled.image.shape[:2]
            said = f"{width} x {height}, {len(labelled.instances):,} instances"
        console.print(f"checked: {one_line(said)}", markup=False, highlight=False, soft_wrap=True)
    if not good:
        raise JobError("none of the images that were tried can be learned from; see why above")
