"""What was found in the windows of a raster, read back from the output of the first stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from condinst.instances import Instances
from pipeline.commit import Commit
from pipeline.ledger import LedgerError
from pipeline.plan import Plan, read_shard
from pipeline.records import Status, Window
from pipeline.rowmasks import combined, rle_masks
from pipeline.storage import Store
from pipeline.tables import Run
from pipeline.tiled.frozen import FrozenRaster

DONE = (Status.OK, Status.EMPTY, Status.NODATA)
"""What a window ends as that was looked at."""
_KEPT = 2
_IMAGES = ["status", "error", "etag", "instances", "capped", "decode_ms", "infer_ms"]
_INSTANCES = ["category_id", "score", "bbox", "area", "mask"]


@dataclass(frozen=True)
class Seen:
    """One window and what became of it."""

    window: Window
    status: Status
    error: str | None
    etag: str | None
    """Of the raster as it was read."""
    decode_ms: float
    infer_ms: float
    instances: int
    capped: int
    """1 where they are as many as a model may find in one window."""

    @property
    def done(self) -> bool:
        """Whether somebody looked at it: what was not found there is not there."""
        return self.status in DONE

    @property
    def full(self) -> bool:
        """Whether all that it has of its raster is data: else its row says how much is not."""
        return self.error is None


def window_shards(plan: Plan, raster: FrozenRaster) -> Iterator[tuple[int, slice]]:
    """The shards of the windows' `plan` that hold a raster's, and which of their rows those are."""
    at, end, size = raster.first, raster.first + raster.windows, plan.shard_size
    while at < end:
        number, row = divmod(at, size)
        stop = min(end, (number + 1) * size)
        yield number, slice(row, row + stop - at)
        at = stop


class WindowsFound:
    """Reads committed window shards; those last read stay in memory, for rasters that share them.

    Of each shard one revision is read, however often. Methods raise LedgerError where a shard is not
    committed, was retried since it was first read, or has files that are not what was committed.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        """`store` is the first stage's output, `plan` its plan."""
        self._store, self._plan = store, plan
        self._run = Run(store)
        self._revisions: dict[int, int] = {}
        self._commit = lru_cache(_KEPT)(self._read_commit)
        self._seen = lru_cache(_KEPT)(self._read_seen)
        self._found = lru_cache(_KEPT)(self._read_found)

    def seen(self, raster: FrozenRaster) -> list[Seen]:
        """A raster's windows in manifest order."""
        return [
            seen for number, rows in window_shards(self._plan, raster) for seen in self._seen(number)[rows]
        ]

    def instances(self, raster: FrozenRaster) -> Iterator[Instances]:
        """What was found in each of them, in the window's pixels; a shard is in memory at a time."""
        for number, rows in window_shards(self._plan, raster):
            bounds = np.append(0, np.cumsum([seen.instances for seen in self._seen(number)]))
            found = self._found(number)
            for row in range(rows.start, rows.stop):
                yield _slice(found, int(bounds[row]), int(bounds[row + 1]))

    def revisions(self, raster: FrozenRaster) -> dict[str, int]:
        """The revisions of its shards, of those that were retried; call it after `seen`."""
        numbers = [number for number, _ in window_shards(self._plan, raster)]
        return {self._shard(number): self._revisions[number] for number in numbers if self._revisions[number]}

    def _shard(self, number: int) -> str:
        return self._plan.shard_id(number)

    def _read_commit(self, number: int) -> Commit:
        shard = self._shard(number)
        commit = self._run.ledger.read(shard)
        if commit is None:
            raise LedgerError(
                f"{self._store.uri}: window shard {shard} is not committed; run the job again to do it first"
            )
        if commit.revision != self._revisions.setdefault(number, commit.revision):
            raise LedgerError(f"{self._store.uri}: window shard {shard} was retried while it was stitched")
        return commit

    def _read_seen(self, number: int) -> list[Seen]:
        refs = read_shard(self._store, self._plan, number)
        images = self._run.part(self._commit(number), "images", _IMAGES).to_pylist()
        return [
            Seen(
                window=ref.window,
                status=Status(image["status"]),
                error=image["error"],
                etag=image["etag"],
                decode_ms=image["decode_ms"] or 0.0,
                infer_ms=image["infer_ms"] or 0.0,
                instances=image["instances"],
                capped=image["capped"] or 0,
            )
            for ref, image in zip(refs, images, strict=True)
            if ref.window is not None
        ]

    def _read_found(self, number: int) -> Instances:
        return instances_of(self._run.part(self._commit(number), "instances", _INSTANCES))


def _slice(found: Instances, begin: int, end: int) -> Instances:
    part = slice(begin, end)
    return Instances(found.boxes[part], found.scores[part], found.classes[part], found.masks[part])


def instances_of(rows: pa.Table) -> Instances:
    """Rows of `instances` as the model gave them."""
    box = combined(rows["bbox"])
    x, y, width, height = (box.field(name).to_numpy() for name in ("x", "y", "width", "height"))
    return Instances(
        boxes=np.column_stack([x, y, x + width, y + height]),
        scores=rows["score"].to_numpy(),
        classes=rows["category_id"].to_numpy().astype(np.int64) - 1,
        masks=rle_masks(rows),
    )
