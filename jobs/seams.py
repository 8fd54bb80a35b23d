"""`condinst evaluate OUTPUT --seams OTHER`: whether cutting rasters into windows changed what is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from condinst.instances import Instances
from jobs.errors import JobError
from jobs.target import open_run, put_file
from pipeline.commit import Commit
from pipeline.geo.windows import inside
from pipeline.plan import read_shard
from pipeline.stitch import Windows
from pipeline.stitch.seams import Seams, Side, compare, seam_lines
from pipeline.storage import StoreOptions
from pipeline.tables import Run
from pipeline.tiled.found import WindowsFound, instances_of
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.planning import open_windows

_COLUMNS = ["category_id", "score", "bbox", "area", "mask"]


def compare_outputs(
    output: str, reference: str, options: StoreOptions, json_file: str | None, console: Console | None = None
) -> Seams:
    """Compare the instances of two tiled outputs of the same rasters; prints the comparison.

    Raises JobError for an output that is no tiled job's or without a raster in common, StoreError.
    """
    console = console or Console()
    tiled, whole = _open(output, options), _open(reference, options)
    threshold = max(threshold_of(tiled), threshold_of(whole))
    found, together = None, 0
    of_reference = {raster.image_id: raster for raster in rasters(whole)}
    for raster in rasters(tiled):
        if raster.image_id in of_reference:
            one = _compare(raster, of_reference[raster.image_id], threshold)
            found, together = one if found is None else _added(found, one), together + 1
    if found is None:
        raise JobError(f"{output} and {reference} have no raster in common; compare two runs of one input")
    _print(console, found, together, threshold)
    if json_file is not None:
        put_file(json_file, json.dumps(figures(found), indent=2).encode(), options)
    return found


def figures(seams: Seams) -> dict[str, Any]:
    """The comparison for programs."""
    shares = {name: getattr(seams, name) for name in ("matched", "duplicates", "excess", "lack")}
    return {**shares, **asdict(seams)}


def _open(uri: str, options: StoreOptions) -> Run:
    run = open_run(uri, options)
    if not run.tiled:
        raise JobError(f"{uri} is no tiled job's output; --seams compares outputs of jobs with `tiling`")
    return run


def threshold_of(run: Run) -> float:
    """The score below which a run has no instance of some class, and near which it flickers."""
    found = run.job.get("score_threshold")
    if found is None:  # of an output of before it was recorded; what the weights state is not known there
        settings = run.job.get("settings")
        detect = settings.get("detect", {}) if isinstance(settings, dict) else {}
        found = detect.get("score_threshold")
    return float(found) if isinstance(found, int | float) else 0.0


@dataclass(frozen=True)
class Raster:
    """A raster of a run, and where its rows are."""

    image_id: str
    frozen: FrozenRaster
    run: Run
    commit: Commit | None
    """Of its shard; None where that is not committed."""
    windows: WindowsFound | None

    @property
    def instances(self) -> Instances:
        """Its rows, read from its own shard alone."""
        if self.commit is None:
            return instances_of(self.run.schema("instances").empty_table())
        mine = pc.field("image_id") == self.image_id
        return instances_of(self.run.part(self.commit, "instances", _COLUMNS, mine))

    @property
    def seams(self) -> Any:
        """(s, 4) the borders between its windows."""
        if self.windows is None or not self.frozen.windows:
            return np.zeros((0, 4), np.int64)
        seen = self.windows.seen(self.frozen)
        parts = [inside(one.window, self.frozen.width, self.frozen.height) for one in seen]
        return seam_lines(Windows.of(parts))


def rasters(run: Run) -> Iterator[Raster]:
    """Every raster of a tiled run, in plan order. Raises StoreError, PlanError."""
    commits = {commit.shard: commit for commit in run.commits}
    for plan in run.plans:
        windows = None if plan.windows is None else WindowsFound(open_windows(run.store), plan.windows)
        for number, shard in enumerate(plan.shard_ids()):
            for ref in read_shard(run.store, plan, number):
                frozen = read_frozen(ref.raster or "{}")
                yield Raster(ref.image_id, frozen, run, commits.get(shard), windows)


def _compare(tiled: Raster, whole: Raster, threshold: float) -> Seams:
    one, other = tiled.frozen, whole.frozen
    if (one.width, one.height) != (other.width, other.height):
        raise JobError(f"{tiled.image_id} was segmented at two scales; compare runs of one resolution")
    return compare(whole.instances, tiled.instances, np.concatenate([tiled.seams, whole.seams]), threshold)


def _added(one: Seams, other: Seams) -> Seams:
    return Seams(_both(one.reference, other.reference), _both(one.tiled, other.tiled))


def _both(one: Side, other: Side) -> Side:
    mine, theirs = asdict(one), asdict(other)
    return Side(**{name: mine[name] + theirs[name] for name in mine})


def _print(console: Console, seams: Seams, rasters: int, threshold: float) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("[bold]rasters[/]", f"{rasters:,}")
    reference, tiled = seams.reference, seams.tiled
    table.add_row("instances", f"{tiled.instances:,}, the reference has {reference.instances:,}")
    table.add_row("matched", f"{seams.matched:.2%} of the reference's, at an IoU over 0.9")
    table.add_row("duplicates", f"{seams.duplicates:.2%}")
    table.add_row("along seams", f"{seams.excess:.2%} more than the reference, {seams.lack:.2%} fewer")
    elsewhere = f"{tiled.alone_elsewhere:,} only here, {reference.alone_elsewhere:,} only in the reference"
    table.add_row("elsewhere", elsewhere)
    console.print(table)
    console.print(f"instances with a score under {threshold + 0.05:g} are left out", highlight=False)
