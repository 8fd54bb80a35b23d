"""A worker: a model and the threads around it, that takes one shard from its start to its commit."""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

from pipeline.batching import batches
from pipeline.clock import Clock
from pipeline.commit import Commit, TableFile
from pipeline.feeding import Feeder, Ready, Refused, describe
from pipeline.inference import Inference, Inferred
from pipeline.inputs import Inputs
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, load_plans, read_shard
from pipeline.progress import Progress
from pipeline.records import ImageRef, Status
from pipeline.results import ShardResult
from pipeline.rows import Outcome, count_classes, images_table, instances_table, to_parquet, visible
from pipeline.schemas import file_metadata
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.weights import detect_config, load_model

AHEAD = 2
"""Batches of one shard that are queued at the model, so that it never waits for the next."""


class Worker:
    """Segments shards of one job. `process` may run for two shards at a time, in two threads.

    Raises condinst.WeightsError, ModelChanged or StoreError when the model or the output cannot be had.
    """

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store = Store.open(settings.output, settings.output_options)
        self._ledger = Ledger(self._store)
        self._fingerprint = settings.fingerprint()
        self._plans: dict[str, Plan] = {}
        self._plans_lock = threading.Lock()
        self._tickets = itertools.count()
        self._model = load_model(settings)
        detect = detect_config(self._model, settings)
        self._inference = Inference(
            lambda batch: self._model.predict_prepared(batch, detect), threads=settings.cpus
        )
        self._feeder = Feeder(
            Inputs(settings.sources),
            self._model.prepare,
            settings.limits,
            images=settings.prefetch_images,
            bytes=settings.prefetch_bytes,
            decoders=max(2, settings.cpus),
        )
        self._progress = Progress(self._store, self.id)

    def close(self) -> None:
        """End the worker's threads; no shard may be in work."""
        self._inference.close()
        self._feeder.close()
        self._progress.close()

    def process(self, shard: str) -> ShardResult:
        """Segment a shard and commit it; a shard that another attempt committed first costs nothing but time.

        Raises StoreError when a store cannot be reached; the shard can be tried again at any time.
        """
        ticket, clock = next(self._tickets), Clock(shard)
        plan, refs = self._read(shard)
        attempt = self._ledger.begin(shard, self.id)
        with self._progress.shard(shard, len(refs)):
            try:
                outcomes = self._segment(ticket, shard, refs, clock)
                record = self._write(plan, shard, attempt, outcomes, clock)
            except Exception:
                self._ledger.abandon(shard, attempt)
                raise
            with clock.stage("commit"):
                ruling = self._ledger.commit(record)
        return _result(ruling, attempt, clock, self.id)

    def _read(self, shard: str) -> tuple[Plan, list[ImageRef]]:
        generation, _, number = shard.partition("-")
        with self._plans_lock:
            if generation not in self._plans:
                self._plans = {f"{plan.generation:04d}": plan for plan in load_plans(self._store)}
            plan = self._plans[generation]
        return plan, read_shard(self._store, plan, int(number))

    def _segment(self, ticket: int, shard: str, refs: Sequence[ImageRef], clock: Clock) -> list[Outcome]:
        """What became of each input, in manifest order."""
        outcomes: dict[int, Outcome] = {}
        inferring: deque[tuple[list[Ready], Future[list[Inferred]]]] = deque()

        def usable() -> Iterator[Ready]:
            for item in self._feeder.stream(refs, clock):
                if isinstance(item, Refused):
                    outcomes[item.index] = item.outcome
                    self._progress.advance(shard, 1)
                else:
                    yield item

        def collect() -> None:
            batch, future = inferring.popleft()
            for ready, inferred in zip(batch, future.result(), strict=True):
                outcomes[ready.index] = self._judge(ready.outcome, inferred)
            self._progress.advance(shard, len(batch))

        for batch in batches(usable(), self.settings.batch_images, self.settings.batch_pixels):
            if len(inferring) == AHEAD:
                collect()
            inferring.append((batch, self._inference.submit(ticket, [r.prepared for r in batch], clock)))
        while inferring:
            collect()
        return [outcomes[index] for index in range(len(refs))]

    def _judge(self, outcome: Outcome, inferred: Inferred) -> Outcome:
        if isinstance(inferred.found, Exception):
            return replace(
                outcome, status=Status.FAILED, error=describe(inferred.found), infer_ms=inferred.ms
            )
        found = visible(inferred.found)
        status = Status.OK if len(found) else Status.EMPTY
        return replace(outcome, status=status, found=found, infer_ms=inferred.ms)

    def _write(
        self, plan: Plan, shard: str, attempt: str, outcomes: Sequence[Outcome], clock: Clock
    ) -> Commit:
        """Put the attempt's files; returns the record that would commit them."""
        with clock.stage("encode"):
            classes = self._model.config.classes
            tables = {
                "instances": instances_table(outcomes, classes),
                "images": images_table(outcomes, attempt, plan.extra),
            }
            said = file_metadata(shard, attempt, self._fingerprint, self.settings.model_digest)
            files = {name: to_parquet(table, said) for name, table in tables.items()}
        with clock.stage("write"):
            self._ledger.write(shard, attempt, files)
        return Commit(
            shard=shard,
            attempt=attempt,
            fingerprint=self._fingerprint,
            files={name: TableFile.of(data, tables[name].num_rows) for name, data in files.items()},
            counts=dict(sorted(Counter(str(outcome.status) for outcome in outcomes).items())),
            classes=count_classes(outcomes, classes),
            instances=tables["instances"].num_rows,
            bytes=sum(outcome.bytes or 0 for outcome in outcomes),
            committed=time.time(),
            work=clock.work(self.id),
        )


def _result(ruling: Commit, attempt: str, clock: Clock, worker: str) -> ShardResult:
    work = clock.work(worker)
    return ShardResult(
        shard=ruling.shard,
        attempt=attempt,
        worker=worker,
        won=ruling.attempt == attempt,
        counts=ruling.counts,
        classes=ruling.classes,
        instances=ruling.instances,
        bytes=ruling.bytes,
        seconds=work.seconds,
        first=work.first,
        last=work.last,
        busy=work.busy,
    )
