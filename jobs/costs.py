"""What `condinst plan` says of time and money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from jobs.errors import one_line
from jobs.estimate import Estimate, Todo, estimate, estimate_tiled, read_headers
from jobs.progress import duration
from jobs.rates import MEGA, Rate, measured, measured_tiled
from jobs.spec import SegmentSpec
from pipeline.geo.windows import inside
from pipeline.inputs import Inputs
from pipeline.nouns import many, plural
from pipeline.records import ImageRef
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.frozen import read_frozen

SHOWN = 3
"""Refused inputs that are shown."""
NONE = "none: nothing was run yet to measure; give a like job's output as --like"


@dataclass(frozen=True)
class Ahead:
    """What there is to do."""

    images: int
    """Of a tiled job, windows."""
    shards: int
    size: int
    """Images of a full shard."""
    sample: Sequence[ImageRef]
    rasters: int = 0
    """Of a tiled job, stitch shards."""
    stitched: int = 0
    """The windows of those."""

    @property
    def left(self) -> bool:
        """Whether a run would do anything."""
        return self.shards + self.rasters > 0


def say_cost(table: Table, spec: SegmentSpec, settings: SegmentSettings, ahead: Ahead, runs: Store) -> None:
    """Add what a run would take, by the runs of an output. Raises StoreError, LedgerError, PlanError."""
    rows = _of_images if settings.tiling is None else _of_windows
    for heading, words in rows(spec, settings, ahead, runs):
        table.add_row(heading, escape(words))


def _of_images(
    spec: SegmentSpec, settings: SegmentSettings, ahead: Ahead, runs: Store
) -> Iterator[tuple[str, str]]:
    headers = read_headers(Inputs(settings.sources), ahead.sample)
    if headers.megapixels is not None:
        sizes = f"{headers.megapixels:.2f} megapixels on average, {headers.largest:.2f} the largest"
        yield "headers", f"of {many(headers.looked_at, 'input')}: {sizes}"
    for name, why in headers.refused[:SHOWN]:
        yield "refused", one_line(f"{name}: {why}")
    if len(headers.refused) > SHOWN:
        yield "", f"and {len(headers.refused) - SHOWN:,} more of {headers.looked_at:,}"
    rate = measured(runs)
    if rate is None:
        yield "estimate", NONE
        return
    todo = Todo(ahead.images, ahead.shards, _workers(spec, ahead.shards), ahead.size)
    cost = estimate(rate, headers, todo, settings.gpus, spec.price_per_gpu_hour)
    yield from _time(cost, todo.workers, spec)
    yield "measured", _speed(rate, "image", runs)
    yield _requests(cost)


def _of_windows(
    spec: SegmentSpec, settings: SegmentSettings, ahead: Ahead, runs: Store
) -> Iterator[tuple[str, str]]:
    rate = measured_tiled(runs)
    if rate is None:
        yield "estimate", NONE
        return
    sizes = [megapixels for ref in ahead.sample if (megapixels := _megapixels(ref)) is not None]
    windows = Todo(ahead.images, ahead.shards, _workers(spec, ahead.shards), ahead.size)
    stitched = Todo(ahead.stitched, ahead.rasters, _workers(spec, ahead.rasters))
    mean = sum(sizes) / len(sizes) if sizes else None
    cost = estimate_tiled(rate, mean, windows, stitched, settings.gpus, spec.price_per_gpu_hour)
    yield from _time(cost, max(windows.workers, stitched.workers), spec)
    stitching = f", {1 / rate.stitching:.1f} stitched" if rate.stitching else ""
    yield "measured", _speed(rate.windows, "window", runs) + stitching
    yield _requests(cost)


def _megapixels(ref: ImageRef) -> float | None:
    """Of what of a window lies in its raster."""
    if ref.window is None or ref.raster is None:
        return None
    raster = read_frozen(ref.raster)
    part = inside(ref.window, raster.width, raster.height)
    return part.width * part.height / MEGA


def _workers(spec: SegmentSpec, shards: int) -> int:
    return max(1, min(spec.workers.most, shards))


def _time(cost: Estimate, workers: int, spec: SegmentSpec) -> Iterator[tuple[str, str]]:
    hours = f"{cost.gpu_hours:.2f} GPU hours" if cost.gpu_hours else f"{cost.worker_hours:.2f} worker hours"
    money = "" if cost.gpu_cost is None else f", {_dollars(cost.gpu_cost)}"
    yield "estimate", f"{duration(cost.seconds)} on {many(workers, 'worker')}: {hours}{money}"
    if spec.max_gpu_hours is not None and cost.gpu_hours > spec.max_gpu_hours:
        yield "", f"more than max_gpu_hours, {spec.max_gpu_hours:g}: the run will stop before its end"


def _speed(rate: Rate, what: str, runs: Store) -> str:
    speed = (
        f"{1 / rate.seconds_per_image:.1f} {plural(0, what)}/s a worker, {rate.start:.0f} s to start and end"
    )
    return f"{many(rate.images, what)} of {runs.uri}: {speed}"


def _requests(cost: Estimate) -> tuple[str, str]:
    requests = f"{cost.writes:,} writes and listings, {cost.reads:,} reads"
    return "requests", f"{requests}: {_dollars(cost.request_cost)} at S3's list price"


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 else f"${amount:.4f}"
