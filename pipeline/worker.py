"""A worker: a model and the threads around it, that takes one shard from its start to its commit."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import pyarrow.compute as pc

from condinst.preprocess import Prepared
from pipeline.batching import batches
from pipeline.care import Care, Carer
from pipeline.clock import Clock
from pipeline.commit import Commit, TableFile
from pipeline.feeding import Feeder, Ready, Refused
from pipeline.inference import Inference, Inferred
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.model import detect_config, least_size, load_model, preparing
from pipeline.plan import Plan, Plans
from pipeline.progress import Progress, new_worker_id
from pipeline.records import ImageRef, Status, describe
from pipeline.results import ShardResult, result_of
from pipeline.retry import Redo, Retry, taken_over
from pipeline.rows import Outcome, count_values, images_table, instances_table, to_parquet, visible
from pipeline.schemas import file_metadata
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.nodata import off_frame, on_data
from pipeline.tiled.norms import NOTHING, RasterNorms, Statistics
from pipeline.tiled.reading import WindowReader
from pipeline.watchdog import Watchdog

AHEAD = 2
"""Batches of one shard that are queued at the model, so that it never waits for the next."""


MOST_ENCODERS = 4
"""Threads that encode a GPU's masks; on a CPU it is one, for the model has the cores."""


class Worker:
    """Segments shards of one job. `process` may run for two shards at a time, in two threads.

    Raises condinst.WeightsError, CompileError, ModelChanged or StoreError when the model or the output cannot
    be had.
    """

    def __init__(self, settings: SegmentSettings, retry: Retry | None = None) -> None:
        """With `retry` the shards are committed ones, and some of their inputs are done again."""
        self.settings = settings
        self._retry = retry
        self.id = new_worker_id()
        self._store = Store.open(settings.output, settings.output_options)
        self._ledger = Ledger(self._store)
        self._fingerprint = settings.fingerprint()
        self._plans = Plans(self._store)
        self._tickets = itertools.count()
        self._model = load_model(settings)
        detect = detect_config(self._model, settings)
        self._inference = Inference(
            lambda batch, later: self._model.begin(batch, detect, later).instances,
            threads=settings.cpus,
            encoders=min(settings.cpus, MOST_ENCODERS) if settings.gpus else 1,
        )
        self._inputs = Inputs(settings.sources)
        self._feeder = Feeder(
            self._inputs,
            preparing(self._model, settings),
            settings.limits,
            images=settings.prefetch_images,
            bytes=settings.prefetch_bytes,
            decoders=max(2, settings.cpus),
            windows=None
            if settings.tiling is None
            else WindowReader(settings.sources, settings.tiling.multiple),
            least=least_size(self._model, settings),
        )
        tiling = settings.tiling
        self._norms = RasterNorms(self._store, tiling.scale) if tiling and tiling.norms == "raster" else None
        self._carer = Carer(self._store, self.id, settings.limits)
        self._progress = Progress(self._store, self.id)
        self._watchdog = Watchdog()

    def close(self) -> None:
        """End the worker's threads; no shard may be in work."""
        self._inference.close()
        self._feeder.close()
        self._progress.close()
        self._watchdog.close()

    def process(self, shard: str) -> ShardResult:
        """Segment a shard and commit it; a shard that another attempt committed first costs nothing but time.

        Raises StoreError when a store cannot be reached; the shard can be tried again at any time. Raises
        ShardGivenUp for a shard that process after process died at.
        """
        ticket, clock = next(self._tickets), Clock(shard)
        plan, refs = self._plans.shard(shard)
        redo = None
        if self._retry is not None:
            redo = Redo.of(self._ledger, self._retry, shard)
            if not redo.again:
                self._ledger.publish(redo.base)
                return result_of(redo.base, "", clock.work(self.id))
            refs = redo.inputs(refs)
            if self.settings.tiling is not None:
                refs = self._inputs.as_they_are(refs)
        since = redo.base.attempt if redo is not None else ""
        attempt = self._ledger.begin(shard, self.id)
        with self._progress.shard(shard, len(refs), clock):
            try:
                with self._carer.care(shard, attempt, since) as care:
                    outcomes = self._segment(ticket, shard, refs, clock, care)
                record = self._write(plan, shard, attempt, outcomes, clock, redo)
            except Exception:
                self._ledger.abandon(shard, attempt)
                raise
            with clock.stage("commit"):
                ruling = self._ledger.commit(record)
        return result_of(ruling, attempt, clock.work(self.id))

    def _segment(
        self, ticket: int, shard: str, refs: Sequence[ImageRef], clock: Clock, care: Care
    ) -> list[Outcome]:
        """What became of each input, in manifest order."""
        outcomes: dict[int, Outcome] = {}
        inferring: deque[tuple[list[Ready], Future[list[Inferred]]]] = deque()

        def usable() -> Iterator[Ready]:
            for item in self._feeder.stream(refs, clock, care):
                if isinstance(item, Refused):
                    outcomes[item.index] = item.outcome
                    self._progress.advance(shard, 1)
                elif self._norms is None:
                    yield item
                else:
                    norms = self._norms_of(self._norms, item.outcome.ref, ticket, clock, care)
                    yield replace(item, prepared=replace(item.prepared, norms=norms))

        def collect() -> None:
            batch, future = inferring.popleft()
            for ready, inferred in zip(batch, future.result(), strict=True):
                outcomes[ready.index] = self._judge(ready, inferred)
            self._progress.advance(shard, len(batch))

        for batch in batches(usable(), self.settings.batch_images, self.settings.batch_pixels, _alike):
            if len(inferring) == AHEAD:
                collect()
            images = [ready.outcome.ref.image_id for ready in batch]
            prepared = self._stacked([ready.prepared for ready in batch])
            batch = [replace(ready, prepared=item) for ready, item in zip(batch, prepared, strict=True)]
            inferring.append((batch, self._inference.submit(ticket, prepared, clock, care, images)))
        while inferring:
            collect()
        return [outcomes[index] for index in range(len(refs))]

    def _stacked(self, batch: Sequence[Prepared]) -> Sequence[Prepared]:
        """The batch as the model takes it soonest; as it is where memory lacks, for the model to cut it."""
        try:
            return self._model.stacked(batch)
        except (RuntimeError, MemoryError):  # of whatever else, the model's thread will know what to do
            return batch

    def _norms_of(
        self, norms: RasterNorms, ref: ImageRef, ticket: int, clock: Clock, care: Care
    ) -> Statistics | None:
        """What the head's norms find in the raster that a window is of."""

        def measure(squares: Sequence[ImageRef]) -> Statistics:
            items = [item for item in self._feeder.stream(squares, clock, care) if isinstance(item, Ready)]
            if not items:
                return NOTHING
            images, valid = [item.prepared for item in items], [item.valid for item in items]
            names = [item.outcome.ref.image_id for item in items]
            work = partial(self._model.statistics, valid=valid)
            return self._inference.ask(ticket, images, work, clock, care, names).result()

        return norms.of(ref, measure)

    def _judge(self, ready: Ready, inferred: Inferred) -> Outcome:
        outcome = ready.outcome
        if isinstance(inferred.found, Exception):
            return replace(
                outcome, status=Status.FAILED, error=describe(inferred.found), infer_ms=inferred.ms
            )
        found = visible(inferred.found)
        if ready.valid is not None:
            found = on_data(found, ready.valid)
        if ready.frame is not None and outcome.size is not None:
            found = off_frame(found, *ready.frame, outcome.size)
        status = Status.OK if len(found) else Status.EMPTY
        capped = int(inferred.found.capped)
        return replace(outcome, status=status, found=found, infer_ms=inferred.ms, capped=capped)

    def _write(
        self,
        plan: Plan,
        shard: str,
        attempt: str,
        outcomes: Sequence[Outcome],
        clock: Clock,
        redo: Redo | None,
    ) -> Commit:
        """Put the attempt's files; returns the record that would commit them."""
        with clock.stage("encode"):
            tables = {
                "instances": instances_table(outcomes, self._model.config.classes),
                "images": images_table(outcomes, attempt, plan.extra),
            }
            if redo is not None:
                tables = taken_over(redo.standing, tables)
            said = file_metadata(shard, attempt, self._fingerprint, self.settings.model_digest)
            files = {name: to_parquet(table, said) for name, table in tables.items()}
        with clock.stage("write"):
            self._ledger.write(shard, attempt, files)
        return Commit(
            shard=shard,
            attempt=attempt,
            fingerprint=self._fingerprint,
            files={name: TableFile.of(data, tables[name].num_rows) for name, data in files.items()},
            counts=count_values(tables["images"]["status"]),
            classes=count_values(tables["instances"]["category"]),
            instances=tables["instances"].num_rows,
            bytes=pc.sum(tables["images"]["bytes"], min_count=0).as_py(),
            capped=pc.sum(tables["images"]["capped"], min_count=0).as_py(),
            committed=time.time(),
            work=replace(clock.work(self.id), images=None if redo is None else len(outcomes)),
            revision=0 if redo is None else redo.base.revision + 1,
        )


def _alike(ready: Ready) -> Hashable:
    """What the images of one batch share."""
    return ready.padded, ready.prepared.norms is None
