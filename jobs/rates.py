"""How fast an output's runs were.

Of every run that the output's commits tell of: a worker's seconds from its first batch to its last over the
pixels it went through. What a run spends before its first batch and after its last, from its listing on, is
the last run's own figure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from jobs.report import SUMMARY_KEY
from jobs.tally import Tally
from pipeline.commit import Commit
from pipeline.ledger import Ledger
from pipeline.manifest import load_plans
from pipeline.retry import committed_images
from pipeline.storage import NotFound, Store
from pipeline.tiled.planning import open_windows

LOOKED_AT = 40
"""Shards whose rows are read for the pixels of a run."""
MEGA = 1e6


@dataclass(frozen=True)
class Rate:
    """What one worker needed."""

    seconds_per_megapixel: float
    seconds_per_image: float
    """Of whatever size: for inputs whose size cannot be told."""
    images: int
    """That were measured."""
    start: float
    """Seconds from a run's begin to its first batch, and from its last to its end."""


@dataclass(frozen=True)
class TiledRate:
    """What the workers of a tiled job needed for its two stages."""

    windows: Rate
    """Of the first; its `start` is what the whole run spent beside both."""
    stitching: float
    """Seconds of a worker of the second, for each window that is stitched."""


def measured(store: Store) -> Rate | None:
    """The rate of an output's runs; None where none has done anything yet. Raises StoreError, LedgerError."""
    commits = [commit for commit in Ledger(store).records() if commit.work.first is not None]
    tally = Tally.of(commits)
    spans = sum(busy.last - busy.first for busy in tally.workers.values())
    images = sum(busy.images for busy in tally.workers.values())
    if not images or not spans:
        return None
    per_image = spans / images
    pixels = _megapixels_per_image(store, commits)
    last = _last_run(store)
    start = max(0.0, last["seconds"] - _computing(last)) if last else 0.0
    return Rate(per_image / pixels if pixels else 0.0, per_image, images, start)


def measured_tiled(store: Store) -> TiledRate | None:
    """The rates of a tiled job's runs; None where none has come to its end. Raises as `measured`."""
    windows, last = measured(open_windows(store)), _last_run(store)
    commits = list(Ledger(store).records())
    if windows is None or last is None or not commits:
        return None
    busy = sum(_busy(own) for own in _by_worker(commits).values())
    rasters, planned = sum(sum(c.counts.values()) for c in commits), sum(p.images for p in load_plans(store))
    stitching = busy * last["images"] / rasters / max(1, int(last.get("workers", 1)))
    start = max(0.0, last["seconds"] - stitching - _computing(last.get("windows")))
    return TiledRate(replace(windows, start=start), busy / (windows.images * rasters / planned))


def _megapixels_per_image(store: Store, commits: Sequence[Commit]) -> float | None:
    """Mean over some shards, those without a size counted as nothing: they cost next to nothing."""
    pixels, rows = 0.0, 0
    for commit in _spread(commits, LOOKED_AT):
        table = committed_images(store, commit).select(["width", "height"])
        width, height = (pc.cast(table[name], "float64") for name in ("width", "height"))
        pixels += pc.sum(pc.multiply(width, height), min_count=0).as_py() / MEGA
        rows += table.num_rows
    return pixels / rows if rows and pixels else None


def _spread(commits: Sequence[Commit], count: int) -> Iterable[Commit]:
    step = max(1, len(commits) // count)
    return islice(commits, 0, None, step)


def _by_worker(commits: Iterable[Commit]) -> dict[str, list[Commit]]:
    found: dict[str, list[Commit]] = {}
    for commit in commits:
        found.setdefault(commit.work.worker, []).append(commit)
    return found


def _busy(commits: Iterable[Commit]) -> float:
    """Seconds in which a worker stitched: of two shards at a time they count once."""
    total, until = 0.0, 0.0
    spans = ((c.committed - sum(c.work.seconds.values()), c.committed) for c in commits)
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _last_run(store: Store) -> dict[str, Any] | None:
    """What the summary says of the run that completed the job; None where there is none."""
    try:
        run = json.loads(store.get(SUMMARY_KEY))["run"]
        return {**run, "seconds": float(run["seconds"]), "images": int(run["images"])}
    except (NotFound, ValueError, KeyError, TypeError):
        return None


def _computing(run: Any) -> float:
    """Seconds of a run, or of a stage, from its first batch to its last."""
    rate = float(run.get("images_per_second") or 0.0) if isinstance(run, dict) else 0.0
    return int(run["images"]) / rate if rate else 0.0
