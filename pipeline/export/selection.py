"""Which images and instances of a run are taken, and the way through them, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.records import Status
from pipeline.tables import Run

R = TypeVar("R")

DECODED = (Status.OK.value, Status.EMPTY.value, Status.NODATA.value)
"""Statuses of images whose size is known."""
CORNERS = "corners of outlines, which now run beside the pixels' edges (--simplify)"
UNSIZED = "images that were not decoded have no size: left out"
IMAGE_COLUMNS = ("image_id", "uri", "status", "width", "height")


class SelectionError(ValueError):
    """A selection that names what the run does not have."""


@dataclass(frozen=True)
class Selection:
    """Conditions that all must hold; without any, everything that was decoded."""

    min_score: float | None = None
    max_score: float | None = None
    """Scores below it: two selections with one bound share no instance."""
    classes: tuple[str, ...] = ()
    """Names of classes; none for all."""
    statuses: tuple[str, ...] = DECODED
    """Of images."""
    min_area: int | None = None
    """Pixels of the mask, at least."""
    max_area: int | None = None
    """Pixels of the mask, at most."""

    def check(self, run: Run) -> None:
        """Raise SelectionError for a class that no instance of the run has, and for an unknown status."""
        known = sorted({name for commit in run.commits for name in commit.classes})
        if unknown := [name for name in self.classes if name not in known]:
            raise SelectionError(
                f"class {unknown[0]!r}: no instance of {run.store.uri} has it; "
                f"there are {', '.join(map(repr, known)) or 'none'}"
            )
        statuses = [status.value for status in Status]
        if unknown := [name for name in self.statuses if name not in statuses]:
            raise SelectionError(f"status {unknown[0]!r} is none of {', '.join(statuses)}")

    @property
    def rows(self) -> pc.Expression | None:
        """What must hold of a row of `instances`; None for nothing."""
        conditions = []
        if self.min_score is not None:
            conditions.append(pc.field("score") >= self.min_score)
        if self.max_score is not None:
            conditions.append(pc.field("score") < self.max_score)
        if self.min_area is not None:
            conditions.append(pc.field("area") >= self.min_area)
        if self.max_area is not None:
            conditions.append(pc.field("area") <= self.max_area)
        if self.classes:
            named = pc.field("category").cast(pa.string())
            conditions.append(named.isin(pa.array(self.classes, pa.string())))
        return reduce(and_, conditions) if conditions else None


@dataclass(frozen=True)
class Part:
    """A shard's share of a selection."""

    number: int
    """Of the shard, in plan order."""
    images: pa.Table
    instances: pa.Table
    """Those of `images`."""
    place: NDArray[np.int64]
    """(n,) the row in `images` of each instance."""

    def values(self, name: str) -> NDArray[np.int64]:
        """A column of whole numbers of `images`; 0 for null."""
        column = pc.fill_null(self.images[name], 0)
        return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]

    def categories(self) -> dict[int, str]:
        """Names of the instances' classes by `category_id`."""
        pairs = self.instances.select(["category_id", "category"]).group_by(["category_id", "category"])
        return {row["category_id"]: row["category"] for row in pairs.aggregate([]).to_pylist()}

    def by_image(self) -> Iterator[tuple[int, slice]]:
        """Each image's row and the range of its instances, which lie together."""
        edges = np.searchsorted(self.place, np.arange(self.images.num_rows + 1))
        for row in range(self.images.num_rows):
            yield row, slice(int(edges[row]), int(edges[row + 1]))


@dataclass
class Exported:
    """What an export wrote, and what it could not."""

    images: int = 0
    instances: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    """How often something was lost, in words."""

    def add(self, other: Exported) -> None:
        """Count in what another part of the export says."""
        self.images += other.images
        self.instances += other.instances
        self.losses.update(other.losses)


def parts(
    run: Run,
    selection: Selection,
    function: Callable[[Part], R],
    images: Sequence[str] = IMAGE_COLUMNS,
    instances: Sequence[str] = (),
) -> Iterator[R]:
    """`function` of each shard's share, in plan order; some shards are worked on at a time, in threads.

    `images` must have `image_id` and `status`; `instances` are read with their `image_id`.
    """
    columns = list(dict.fromkeys(["image_id", *instances]))
    statuses = pa.array(selection.statuses, pa.string())

    def share(number: int, listed: pa.Table, found: pa.Table) -> R:
        listed = listed.filter(pc.is_in(listed["status"], value_set=statuses))
        place = pc.index_in(found["image_id"], value_set=listed["image_id"].combine_chunks())
        found, place = found.filter(place.is_valid()), place.drop_null()
        return function(Part(number, listed, found, place.to_numpy().astype(np.int64)))

    return run.by_shard(share, images, columns, selection.rows)
