"""`condinst cancel`: asks whatever runs on an output to stop."""

from __future__ import annotations

import time

from rich.console import Console

from jobs.beside import CANCEL_SECONDS
from jobs.outputs import stages
from jobs.progress import duration
from jobs.standing import standing_job
from jobs.status import SILENT_SECONDS
from jobs.stopping import GRACE_SECONDS
from jobs.target import no_job, open_target
from jobs.train_status import TrainingLook, look
from pipeline.ledger import Ledger
from pipeline.nouns import many
from pipeline.plan import PlanError, load_plans
from pipeline.retry import unfinished
from pipeline.signs import read_signs
from pipeline.stopping import request_cancel
from pipeline.storage import Store, StoreOptions


def cancel_job(target: str, options: StoreOptions, console: Console | None = None) -> None:
    """Leave a request in an output, or a spec's, that every driver at work there obeys.

    Nothing is left where all is done: there is nobody to obey it.

    Raises JobError where no job ever ran, StoreError when the store cannot be reached.
    """
    console = console or Console()
    store = open_target(target, options)
    if standing_job(Ledger(store)) is None:
        if (training := look(store)) is None:
            raise no_job(store)
        _cancel_training(store, training, console)
        return
    if _is_done(store):
        console.print("this job is complete: there is nothing to cancel", highlight=False)
        return
    request_cancel(store)
    signs = [sign for stage in stages(store) for sign in read_signs(stage)]
    alive = [sign for sign in signs if time.time() - sign.time < SILENT_SECONDS]
    if alive:
        seconds = CANCEL_SECONDS + GRACE_SECONDS
        at_work = f"{many(len(alive), 'worker')} gave a sign of late"
        what = f"cancel requested: {at_work}, all end within {seconds:.0f} s"
    else:
        what = "cancel requested; no worker gave a sign of late, a run that is just starting will stop too"
    console.print(what, highlight=False)
    console.print("shards in work are committed or dropped; the next run clears the request", highlight=False)


def _is_done(store: Store) -> bool:
    """Whether a segment job has all its shards, and nothing is left of a retry either."""
    try:
        plans = load_plans(store)
    except PlanError:
        return False
    return bool(plans) and not Ledger(store).pending(plans) and not any(map(unfinished, stages(store)))


def _cancel_training(store: Store, seen: TrainingLook, console: Console) -> None:
    if seen.state == "complete":
        console.print("this training is complete: there is nothing to cancel", highlight=False)
        return
    request_cancel(store)
    if seen.state == "running":
        what = f"cancel requested: the training gave a sign {duration(seen.last_sign or 0.0)} ago"
    else:
        what = "cancel requested; the training gave no sign of late, one that is just starting will stop too"
    console.print(what, highlight=False)
    console.print(
        f"it hears of it within some {2 * CANCEL_SECONDS:.0f} s, ends after the step that it is at, or that "
        "follows a measurement, and keeps its state; the next run clears the request",
        highlight=False,
    )
