"""A run's report as one HTML page, and putting it into the output."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from jobs.cautions import capped
from jobs.errors import one_line
from jobs.progress import GOOD, duration
from jobs.run_report.charts import area, bars, shares, short
from jobs.run_report.gather import PER_OCTAVE, SCORE_BINS, ClassFigures, Gathered, Ints, gather
from jobs.run_report.overlays import Group, overlays
from jobs.run_report.pace import Pace, pace_of
from pipeline.commit import Commit
from pipeline.keys import without_secrets
from pipeline.ledger import Ledger
from pipeline.storage import Store
from pipeline.tables import Run
from pipeline.tiled.planning import open_windows

REPORT_KEY = "report.html"
_CLASSES = 100
"""Classes listed one by one."""
_WORKERS = 20


def put_report(store: Store, console: Console) -> None:
    """Write the report of an output, and warn where it cannot be: the rows are there all the same."""
    try:
        store.put(REPORT_KEY, render(Run(store)).encode())
    except Exception as error:
        told = one_line(f"{store.join(REPORT_KEY)} was not written: {type(error).__name__}: {error}")
        console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)


def render(run: Run) -> str:
    """The whole page. Raises StoreError, LedgerError when the tables cannot be read."""
    gathered = gather(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"short": short, "line": one_line, "duration": duration}
    pace = pace_of(_timed(run))
    return environment.get_template("report.html.jinja").render(
        **_about(run),
        statuses=[(s, n, s in GOOD) for s, n in gathered.statuses.most_common()],
        images=gathered.statuses.total(),
        planned=sum(plan.images for plan in run.plans),
        instances=gathered.instances,
        cautions=capped(gathered.capped, run.tiled),
        bad=sum(n for s, n in gathered.statuses.items() if s not in GOOD),
        classes=_classes(gathered),
        more_classes=max(0, len(gathered.classes) - _CLASSES),
        troubles=sorted(gathered.troubles.values(), key=lambda trouble: -trouble.inputs)[:30],
        charts=_charts(gathered),
        pace=pace,
        done="windows" if run.tiled else "images",
        pace_charts=_pace_charts(pace, "windows" if run.tiled else "images") if pace else {},
        workers=pace.workers[:_WORKERS] if pace else [],
        groups=_shown(overlays(run, gathered)),
    )


def _timed(run: Run) -> list[Commit]:
    """The records of the shards that the model ran for: of a tiled job, those of its windows."""
    return list(Ledger(open_windows(run.store)).records()) if run.tiled else run.commits


def _about(run: Run) -> dict[str, Any]:
    """What ran, in words."""
    job = run.job
    settings = job.get("settings")
    return {
        "name": str(job.get("name") or "segment job"),
        "uri": without_secrets(run.store.uri),
        "complete": run.complete,
        "shards": len(run.shards),
        "planned_shards": sum(plan.shards for plan in run.plans),
        "created": str(job.get("created", "")),
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "fingerprint": str(job["fingerprint"]),
        "model": str(job.get("model_digest") or ""),
        "versions": dict(sorted(_mapping(job.get("versions")).items())),
        "settings": _yaml(settings),
        "spec": _yaml(job.get("spec")),
    }


def _classes(gathered: Gathered) -> list[dict[str, Any]]:
    """A row a class, the most frequent first."""
    ranked = sorted(gathered.classes.items(), key=lambda item: (-item[1].instances, item[0]))
    return [
        {
            "name": name,
            "instances": figures.instances,
            "score": _median(figures.scores) / SCORE_BINS,
            "side": _median_side(figures),
            "cut": figures.truncated / figures.instances,
        }
        for name, figures in ranked[:_CLASSES]
    ]


def _median(counts: Ints) -> float:
    """Where half of what is counted lies below, in bins, even within each."""
    total = np.concatenate([[0], np.cumsum(counts)])
    return float(np.interp(total[-1] / 2, total, np.arange(len(total))))


def _median_side(figures: ClassFigures) -> float:
    """Side in pixels of the square of the median area."""
    return float(2.0 ** (_median(figures.areas) / PER_OCTAVE / 2))


def _charts(gathered: Gathered) -> dict[str, Any]:
    scores = gathered.total("scores")
    marks = [f"{at / SCORE_BINS:g}" if at % 10 == 0 else "" for at in range(SCORE_BINS)]
    sides, side_marks = _trimmed(gathered.total("areas"))
    most = int(np.flatnonzero(gathered.per_image)[-1]) + 1 if gathered.per_image.any() else 1
    per_image = gathered.per_image[:most].tolist()
    counts = ["0", *(f"{2**at:,}" if at % 2 == 0 or most < 9 else "" for at in range(most - 1))]
    return {
        "scores": bars(scores.tolist(), marks, "Scores", "score", "instances"),
        "sizes": bars(sides, side_marks, "Sizes", "side of a square of that area, pixels", "instances"),
        "per_image": bars(per_image, counts, "Instances an image", "instances, from", "images"),
    }


def _trimmed(areas: Ints) -> tuple[list[int], list[str]]:
    """The bins from the first to the last that hold something, with the sides where they begin."""
    filled = np.flatnonzero(areas)
    if not len(filled):
        return [0], [""]
    first, last = int(filled[0]), int(filled[-1])
    every = max(1, -(-(last - first + 1) // 7))
    labels = [
        short(round(2.0 ** (at / PER_OCTAVE / 2), 1)) if (at - first) % every == 0 else ""
        for at in range(first, last + 1)
    ]
    return areas[first : last + 1].tolist(), labels


def _pace_charts(pace: Pace, done: str) -> dict[str, Any]:
    ends = ("0 s", duration(pace.seconds))
    title, over = f"{done.capitalize()} a second", "time since the first batch"
    return {
        "rates": area(pace.rates.tolist(), ends, title, over, f"{done}/s"),
        "stages": shares([(n, s) for n, s in pace.stages.items() if s > 0], "Time of all workers by stage"),
    }


def _shown(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.overlays]


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True) if value else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
