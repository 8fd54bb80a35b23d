"""The worker of a tiled job's second stage: from what was found in windows to the rows of rasters."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from condinst.instances import Instances
from pipeline.care import demand_hope
from pipeline.clock import Clock
from pipeline.commit import Commit, TableFile
from pipeline.ledger import Ledger
from pipeline.objects import Data
from pipeline.plan import Plan, Plans
from pipeline.progress import Progress, new_worker_id
from pipeline.records import ImageRef, Status
from pipeline.results import ShardResult, result_of
from pipeline.rows import Outcome, count_values, images_table, to_parquet
from pipeline.schemas import file_metadata
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.again import outdated, retried_windows
from pipeline.tiled.areas import load_areas, on_raster
from pipeline.tiled.found import Seen, WindowsFound, window_shards
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.groups import groups, offsets
from pipeline.tiled.planning import open_windows
from pipeline.tiled.spool import Spool
from pipeline.tiled.tablewriter import InstancesFile
from pipeline.tiled.together import Part, step, stitch_into, worse
from pipeline.watchdog import Watchdog
from pipeline.weights import class_names


class StitchWorker:
    """Stitches shards of one job. `process` may run for two shards at a time, in two threads.

    Raises condinst.WeightsError, ModelChanged or StoreError when the classes or the output cannot be had.
    """

    def __init__(self, settings: SegmentSettings, again: bool = False) -> None:
        """With `again` the shards are committed ones, of whose windows some were retried since."""
        self.settings = settings
        self._again = again
        self.id = new_worker_id()
        self._store = Store.open(settings.output, settings.output_options)
        self._ledger = Ledger(self._store)
        self._fingerprint = settings.fingerprint()
        self._names = class_names(settings)
        self._plans = Plans(self._store)
        self._windows: dict[int, WindowsFound] = {}
        self._lock = threading.Lock()
        self._progress = Progress(self._store, self.id)
        self._watchdog = Watchdog()

    def close(self) -> None:
        """End the worker's threads; no shard may be in work."""
        self._progress.close()
        self._watchdog.close()

    def process(self, shard: str) -> ShardResult:
        """Stitch a shard and commit it; a shard that another attempt committed first costs but time.

        Raises LedgerError where a window is not committed, StoreError when the store cannot be reached, and
        ShardGivenUp for a shard that process after process died at.
        """
        clock = Clock(shard)
        plan, refs = self._plans.shard(shard)
        base = self._ledger.read(shard) if self._again else None
        if base is not None and not self._outdated(base, plan, refs):
            self._ledger.publish(base)
            return result_of(base, "", clock.work(self.id))
        attempt = self._ledger.begin(shard, self.id)
        with self._progress.shard(shard, len(refs), clock):
            try:
                demand_hope(self._store, shard, attempt, "" if base is None else base.attempt)
                record = self._stitch(plan, shard, attempt, refs, clock)
                if base is not None:
                    record = replace(record, revision=base.revision + 1)
            except Exception:
                self._ledger.abandon(shard, attempt)
                raise
            with clock.stage("commit"):
                ruling = self._ledger.commit(record)
        return result_of(ruling, attempt, clock.work(self.id))

    def _outdated(self, base: Commit, plan: Plan, refs: Sequence[ImageRef]) -> bool:
        assert plan.windows is not None
        rasters = [read_frozen(ref.raster or "{}") for ref in refs]
        numbers = {number for raster in rasters for number, _ in window_shards(plan.windows, raster)}
        names = plan.windows.shard_ids()
        return outdated(base, retried_windows(self._store), [names[number] for number in numbers])

    def _windows_of(self, plan: Plan) -> WindowsFound:
        assert plan.windows is not None
        with self._lock:
            if plan.generation not in self._windows:
                self._windows[plan.generation] = WindowsFound(open_windows(self._store), plan.windows)
            return self._windows[plan.generation]

    def _stitch(self, plan: Plan, shard: str, attempt: str, refs: Sequence[ImageRef], clock: Clock) -> Commit:
        said = file_metadata(shard, attempt, self._fingerprint, self.settings.model_digest)
        file = InstancesFile(self._names, plan.crs, said)
        outcomes: list[Outcome] = []
        with clock.stage("encode"), Spool() as spool:
            windows = self._windows_of(plan)
            parts = self._parts(plan, refs, windows)
            left_out = self._fill(spool, plan, parts, windows, shard)
            for ref, part in zip(refs, parts, strict=True):
                outcomes.append(_written(file, ref, part, spool.rows(part.number, left_out), shard))
                self._progress.advance(shard, 1)
            images = images_table(outcomes, attempt, plan.extra)
            files: dict[str, Data] = {"instances": file.close(), "images": to_parquet(images, said)}
        with clock.stage("write"):
            self._ledger.write(shard, attempt, files)
        rows = {"instances": file.rows, "images": len(outcomes)}
        return Commit(
            shard=shard,
            attempt=attempt,
            fingerprint=self._fingerprint,
            files={name: TableFile.of(data, rows[name]) for name, data in files.items()},
            counts=count_values(images["status"]),
            classes=dict(sorted(file.classes.items())),
            instances=file.rows,
            bytes=sum(outcome.bytes or 0 for outcome in outcomes),
            capped=sum(outcome.capped for outcome in outcomes),
            committed=time.time(),
            work=clock.work(self.id),
            windows={
                name: revision for part in parts for name, revision in windows.revisions(part.raster).items()
            },
        )

    def _parts(self, plan: Plan, refs: Sequence[ImageRef], windows: WindowsFound) -> list[Part]:
        areas = load_areas(self._store, plan)
        parts = []
        for number, ref in enumerate(refs):
            assert ref.raster is not None
            raster = read_frozen(ref.raster)
            area = on_raster(areas, ref.source, raster)
            parts.append(Part(number, raster, windows.seen(raster), area))
        return parts

    def _fill(
        self, spool: Spool, plan: Plan, parts: Sequence[Part], windows: WindowsFound, shard: str
    ) -> NDArray[np.bool_] | None:
        """Stitch the shard's rasters; returns which instances another raster shows better, if any could."""
        tiling = self.settings.tiling
        if tiling is None or not tiling.across_rasters:
            for part in parts:
                stitch_into(spool, [part], windows, shard)
            return None
        apart: dict[int, FrozenRaster] = {}
        for members in groups([part.raster for part in parts], plan.crs):
            unit = [parts[member] for member in members]
            placed = offsets([part.raster for part in unit]) if len(unit) > 1 else None
            if placed is not None:
                unit = [replace(part, offset=at) for part, at in zip(unit, placed, strict=True)]
                stitch_into(spool, unit, windows, shard)
                continue
            for part in unit:
                stitch_into(spool, [part], windows, shard)
            if len(unit) > 1:
                apart |= {part.number: part.raster for part in unit}
        return worse(spool, apart, plan.crs, shard) if apart else None


def _written(
    file: InstancesFile, ref: ImageRef, part: Part, found: Iterator[Instances], shard: str
) -> Outcome:
    """Write a raster's instances; returns its row."""
    raster, rows, placeless = part.raster, 0, None
    if raster.status is not None:
        return Outcome(ref, raster.status, error=raster.reason)
    georef, size = raster.georef, (raster.height, raster.width)
    for batch in found:
        with step(f"writing instances of {ref.image_id!r}", shard):
            try:
                file.add(ref, size, batch, rows, georef)
            except ValueError as error:  # it lies beyond where the CRS of the output can be used
                georef, placeless = None, f"no geometries: {error}"
                file.add(ref, size, batch, rows, georef)
        rows += len(batch)
    status, said = _judged(part.seen, rows)
    return Outcome(
        ref,
        status,
        error=said or placeless,
        bytes=ref.bytes,
        etag=_as_read(ref, part.seen),
        size=size,
        decode_ms=sum(seen.decode_ms for seen in part.seen),
        infer_ms=sum(seen.infer_ms for seen in part.seen),
        capped=sum(seen.capped for seen in part.seen),
        tiles=len(part.seen),
        crs=raster.crs,
        transform=raster.transform,
        streamed=rows,
    )


def _as_read(ref: ImageRef, seen: Sequence[Seen]) -> str | None:
    """The etag it was planned with, or one that a retry of windows met since."""
    return next((window.etag for window in seen if window.etag not in (None, ref.etag)), ref.etag)


def _judged(seen: Sequence[Seen], instances: int) -> tuple[Status, str | None]:
    """What a raster ends as, and what is to be said of windows that could not be looked at."""
    lost = [window for window in seen if not window.done]
    said = None
    if lost:
        first = f"the first {lost[0].status}: {lost[0].error}"
        said = f"{len(lost):,} of {len(seen):,} windows were not segmented, {first}"
    if instances:
        return Status.OK, said
    if lost:
        return lost[0].status, said
    nothing = all(window.status is Status.NODATA for window in seen)
    return (Status.NODATA if nothing else Status.EMPTY), None
