"""Rasters of a tiled job whose headers said already, as it was planned, that they cannot be segmented."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.plan import Plan, read_shard
from pipeline.records import ImageRef
from pipeline.storage import Store
from pipeline.tiled.frozen import FrozenRaster, read_frozen


def rasters(output: Store, plan: Plan) -> Iterator[tuple[int, ImageRef, FrozenRaster]]:
    """A plan's rasters in its order, each with its shard's number; a shard is in memory at a time."""
    for number in range(plan.shards):
        for ref in read_shard(output, plan, number):
            yield number, ref, read_frozen(ref.raster or "{}")


def refused(output: Store, plans: Iterable[Plan]) -> Iterator[tuple[str, FrozenRaster]]:
    """Id and header of each that has no windows: its row will have the status and reason given here."""
    for plan in plans:
        for _, ref, raster in rasters(output, plan):
            if raster.status is not None:
                yield ref.image_id, raster


def refused_as(output: Store, plans: Sequence[Plan], statuses: Iterable[str]) -> int:
    """How many ended with one of these statuses; no windows of theirs could be retried."""
    wanted = frozenset(statuses)
    return sum(raster.status in wanted for _, raster in refused(output, plans))
