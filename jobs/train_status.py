"""How far a training is, from what its output holds: for `status`, `top` and `cancel`. Needs no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from jobs.errors import Refused, one_line
from jobs.progress import duration
from jobs.train_files import (
    BEST_KEY,
    BEST_WEIGHTS,
    JOB_KEY,
    LAST_WEIGHTS,
    LOG_FOLDER,
    MEASURED_KEY,
    NOT_LOSSES,
    SIGN_KEY,
    SUMMARY_KEY,
    has,
    lines_of,
    standing,
)
from pipeline.checkpoint_keys import steps_kept
from pipeline.stopping import cancel_requested
from pipeline.storage import NotFound, Store

ALIVE_SECONDS = 60.0
"""A training that has not said anything for longer is at work no more: it does so every ten seconds."""
SHOWN = 8
"""Measurements that a person is shown, the latest."""

State = Literal["not started", "running", "interrupted", "complete"]
Said = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingLook:
    """What is known of a training; its fields are what `condinst status --json` says."""

    name: str
    output: str
    state: State
    step: int
    """Steps done: as a training at work said last, else those that are kept."""
    steps: int
    checkpoint: int | None
    """The step that the same command would go on from."""
    losses: dict[str, float]
    """Means over the latest steps."""
    images_per_second: float | None
    seconds_left: float | None
    """What the steps that are left will take, as the log or the last sign tells."""
    last_sign: float | None
    """Seconds since a training at work, or one that died, said something."""
    cancel_requested: float | None
    """Seconds since somebody asked for it to end."""
    measured: list[dict[str, float]]
    """Each measurement: step, seconds, ap, ap50, ap75."""
    best: dict[str, Any] | None
    """The best of them."""
    weights: dict[str, str]
    """Where the `best` and the `last` weights lie."""
    classes: dict[str, list[str]] | None
    """Which classes of `model.weights` were kept, new and dropped."""

    def said(self) -> dict[str, Any]:
        """As plain data."""
        return {"kind": "train", **asdict(self)}


def look(store: Store) -> TrainingLook | None:
    """What an output says of its training; None where it holds none.

    Raises Refused for a `train.json` that is not ours, StoreError when the store cannot be reached.
    """
    record = standing(store)
    if record is None:
        return None
    try:
        steps, batch = int(record["spec"]["training"]["steps"]), int(record["spec"]["batch"])
    except (KeyError, TypeError, ValueError):
        raise Refused(f"{store.join(JOB_KEY)} was not written by this program; name another output") from None
    now = time.time()
    sign, kept, asked = _json(store, SIGN_KEY) or {}, steps_kept(store), cancel_requested(store)
    age = max(0.0, now - at) if isinstance(at := sign.get("time"), int | float) else None
    alive = age is not None and age < ALIVE_SECONDS
    measured, done = lines_of(store, MEASURED_KEY), has(store, SUMMARY_KEY)
    logged = _logged(store, batch)
    step = steps if done else max([*kept[-1:], *([int(sign.get("step", 0))] if alive else []), 0])
    told = {**logged, **(sign if alive else {})}
    seconds = logged.get("step_seconds")
    left = told.get("seconds_left", None if seconds is None else seconds * (steps - step))
    return TrainingLook(
        name=str(record.get("name", "?")),
        output=store.uri,
        state=_state(done, alive, begun=bool(kept or measured or age is not None)),
        step=step,
        steps=steps,
        checkpoint=kept[-1] if kept else None,
        losses={k: v for k, v in told.get("losses", {}).items() if k not in NOT_LOSSES},
        images_per_second=told.get("images_per_second"),
        seconds_left=0 if done else None if left is None else round(left),
        last_sign=age,
        cancel_requested=None if asked is None else max(0.0, now - asked),
        measured=measured,
        best=_json(store, BEST_KEY),
        weights=_weights(store) if measured else {},
        classes=record.get("classes"),
    )


def _state(done: bool, alive: bool, begun: bool) -> State:
    if done:
        return "complete"
    if alive:
        return "running"
    return "interrupted" if begun else "not started"


def _weights(store: Store) -> dict[str, str]:
    named = {"best": BEST_WEIGHTS, "last": LAST_WEIGHTS}
    return {name: store.join(key) for name, key in named.items() if has(store, key)}


def _logged(store: Store, batch: int) -> dict[str, Any]:
    """What the steps before the last checkpoint came to: the means of the newest file of the log."""
    newest = max((info.key for info in store.list(LOG_FOLDER)), default=None)
    lines = lines_of(store, newest) if newest else []
    if not lines:
        return {}
    means = {name: sum(line.get(name, 0.0) for line in lines) / len(lines) for name in lines[-1]}
    seconds = max(means.get("seconds", 0.0), 1e-6)
    losses = {name: round(value, 6) for name, value in means.items()}
    return {"losses": losses, "images_per_second": round(batch / seconds, 3), "step_seconds": seconds}


def _json(store: Store, key: str) -> dict[str, Any] | None:
    """An object of JSON; None where there is none, or something else."""
    with suppress(NotFound, ValueError):
        found = json.loads(store.get(key))
        return found if isinstance(found, dict) else None
    return None


def page(seen: TrainingLook) -> RenderableType:
    """All of it, for people."""
    parts: list[RenderableType] = [_overview(seen)]
    if seen.cancel_requested is not None and seen.state != "complete":
        ago = duration(seen.cancel_requested)
        parts.append(f"[yellow]cancel requested {ago} ago; the next run clears it[/]")
    if seen.measured:
        parts.append(_measurements(seen))
    return Group(*parts)


def _overview(seen: TrainingLook) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]training[/]", f"{escape(one_line(seen.name))}, {_in_words(seen)}")
    kept = "none is kept yet" if seen.checkpoint is None else f"kept up to {seen.checkpoint:,}"
    table.add_row("steps", f"{seen.step:,} of {seen.steps:,}, {seen.step / seen.steps:.1%}; {kept}")
    if seen.losses:
        losses = "  ".join(f"{name} {value:.3g}" for name, value in seen.losses.items())
        table.add_row("losses", escape(one_line(losses)))
    if seen.images_per_second is not None:
        left = seen.seconds_left
        ending = f", about {duration(left)} of training left" if left else ""
        table.add_row("speed", f"{seen.images_per_second:.1f} images/s{ending}")
    if seen.best is not None:
        table.add_row("best", f"step {int(seen.best.get('step', 0)):,}, AP {seen.best.get('ap', 0.0):.4f}")
    for name, uri in seen.weights.items():
        table.add_row(f"{name} weights", escape(one_line(uri)))
    return table


def _in_words(seen: TrainingLook) -> str:
    match seen.state:
        case "running":
            return f"running, last sign {duration(seen.last_sign or 0.0)} ago"
        case "interrupted":
            silent = "" if seen.last_sign is None else f", silent for {duration(seen.last_sign)}"
            return f"interrupted{silent}; run the same command again to go on"
        case "not started":
            return "not started, or just starting: no step is kept yet"
    return "complete"


def _measurements(seen: TrainingLook) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("measured at step", "after", "AP", "AP50", "AP75"):
        table.add_column(heading, justify="right")
    best = int(seen.best.get("step", -1)) if seen.best else -1
    for line in seen.measured[-SHOWN:]:
        figures = [f"{line.get(key, 0.0):.4f}" for key in ("ap", "ap50", "ap75")]
        style = "bold" if int(line["step"]) == best else None
        table.add_row(f"{int(line['step']):,}", duration(line.get("seconds", 0.0)), *figures, style=style)
    return table
