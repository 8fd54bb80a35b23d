"""What two runs say differently of the same images: instances gained, lost, of another class or shape.

Images are those of one `image_id`. Their instances are matched by the IoU of their masks, of whatever class.
Two runs of one plan are read side by side, shard by shard; otherwise the second run's ids are held in memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.matching import Shapes, match, overlaps
from pipeline.tables import Run

IMAGE_COLUMNS = ("image_id", "uri", "status", "width", "height")
INSTANCE_COLUMNS = ("image_id", "instance_id", "category", "score", "area", "mask")
SIZES = (("small", 32**2), ("medium", 96**2))
"""Areas in pixels up to which a mask is small or medium, as COCO has it; the others are large."""
_HELD = 4
"""Shards of the second run that are kept, for images that lie in other shards there."""
Row = dict[str, Any]


class Kind(StrEnum):
    """What became of an instance from the first run to the second."""

    SAME = "same"
    GAINED = "gained"
    """In the second run alone."""
    LOST = "lost"
    """In the first run alone."""
    CLASS = "class"
    """Of another class in the second."""
    SHAPE = "shape"
    """Of the same class, but with a mask that differs by more than is allowed."""


@dataclass(frozen=True)
class Tolerance:
    """From which IoU on two masks are one thing, and from which on it has the same shape."""

    match: float = 0.5
    shape: float = 0.9


@dataclass(frozen=True)
class Change:
    """An instance in both runs, or in one of them; `before` and `after` are rows, None where it is not."""

    kind: Kind
    before: Row | None
    after: Row | None
    iou: float
    """0 where it is in one run alone."""

    @property
    def pixels(self) -> int:
        """How much differs: pixels of one mask alone; of another class, all."""
        areas: list[int] = [row["area"] for row in (self.before, self.after) if row is not None]
        if len(areas) == 1 or self.kind is Kind.CLASS:
            return max(areas)
        union = sum(areas) / (1 + self.iou)
        return round(union * (1 - self.iou))

    @property
    def row(self) -> Row:
        """The row that says its class and size: the first run's where it has one."""
        found = self.before or self.after
        assert found is not None
        return found

    @property
    def size(self) -> str:
        """`small`, `medium` or `large`."""
        return next((name for name, most in SIZES if self.row["area"] < most), "large")


@dataclass(frozen=True)
class ImageDiff:
    """One image of both runs."""

    image: Row
    """The first run's row."""
    after: Row
    """The second run's."""
    changes: list[Change]
    comparable: bool = True
    """False where the runs saw it in different sizes: masks then do not lie on one another."""


@dataclass
class Accounts:
    """What a comparison adds up to."""

    images: int = 0
    """In both runs."""
    only_before: int = 0
    only_after: int = 0
    other_size: int = 0
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Images whose status changed, by what it was and is."""
    kinds: Counter[Kind] = field(default_factory=Counter)
    classes: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    sizes: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    reclassified: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Instances of another class, by both classes."""

    @property
    def empty(self) -> bool:
        """Whether the runs say the same."""
        instances = sum(number for kind, number in self.kinds.items() if kind is not Kind.SAME)
        images = self.only_before + self.only_after + self.other_size + self.statuses.total()
        return not instances + images

    def add(self, found: ImageDiff) -> None:
        """Count an image in."""
        self.images += 1
        self.other_size += not found.comparable
        if found.image["status"] != found.after["status"]:
            self.statuses[found.image["status"], found.after["status"]] += 1
        for change in found.changes:
            self.kinds[change.kind] += 1
            self.classes[change.row["category"], change.kind] += 1
            self.sizes[change.size, change.kind] += 1
            if change.kind is Kind.CLASS and change.before and change.after:
                self.reclassified[change.before["category"], change.after["category"]] += 1


def diff(
    before: Run,
    after: Run,
    accounts: Accounts,
    tolerance: Tolerance | None = None,
    filter: pc.Expression | None = None,
) -> Iterator[ImageDiff]:
    """The images of both runs in the first one's order; `accounts` has all when the last one was taken.

    `filter` chooses instances, of both runs. Raises LedgerError, StoreError, ValueError for damaged tables.
    """
    allowed = tolerance or Tolerance()
    lookup = _Lookup(after, filter)
    shards = before.by_shard(lambda *found: found, IMAGE_COLUMNS, INSTANCE_COLUMNS, filter)
    for number, images, instances in shards:
        mine = _by_image(images, instances)
        theirs = lookup.find(list(mine), number)
        for image_id, (image, rows) in mine.items():
            if image_id not in theirs:
                accounts.only_before += 1
                continue
            other, other_rows = theirs[image_id]
            found = _compare(image, rows, other, other_rows, allowed)
            accounts.add(found)
            yield found
    total = sum(sum(commit.counts.values()) for commit in after.commits)
    accounts.only_after = total - accounts.images


def _by_image(images: pa.Table, instances: pa.Table) -> dict[str, tuple[Row, pa.Table]]:
    """Each image's row and its instances, which lie together, in order."""
    place = pc.index_in(instances["image_id"], value_set=images["image_id"].combine_chunks())
    edges = np.searchsorted(place.to_numpy(), np.arange(images.num_rows + 1))
    return {
        row["image_id"]: (row, instances.slice(edges[at], edges[at + 1] - edges[at]))
        for at, row in enumerate(images.to_pylist())
    }


class _Lookup:
    """Finds images of a run by id: in the shard of the same number first, else by an index made then."""

    def __init__(self, run: Run, filter: pc.Expression | None) -> None:
        self._run, self._filter = run, filter
        self._held: OrderedDict[int, dict[str, tuple[Row, pa.Table]]] = OrderedDict()
        self._index: dict[str, int] | None = None

    def find(self, ids: list[str], number: int) -> dict[str, tuple[Row, pa.Table]]:
        """Those of the images that the run has."""
        found: dict[str, tuple[Row, pa.Table]] = {}
        if number < len(self._run.commits):
            here = self._shard(number)
            found = {image_id: here[image_id] for image_id in ids if image_id in here}
        if left := [image_id for image_id in ids if image_id not in found]:
            index = self._indexed()
            for image_id in left:
                if image_id in index:
                    found[image_id] = self._shard(index[image_id])[image_id]
        return found

    def _shard(self, number: int) -> dict[str, tuple[Row, pa.Table]]:
        if number not in self._held:
            shard = {self._run.commits[number].shard}
            ((images, instances),) = self._run.by_shard(
                lambda _, *tables: tables, IMAGE_COLUMNS, INSTANCE_COLUMNS, self._filter, shard
            )
            self._held[number] = _by_image(images, instances)
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]

    def _indexed(self) -> dict[str, int]:
        if self._index is None:
            self._index = {}
            for number, ids in self._run.by_shard(
                lambda number, images, _: (number, images["image_id"].to_pylist()), ["image_id"], ["image_id"]
            ):
                self._index.update(dict.fromkeys(ids, number))
        return self._index


def _compare(image: Row, rows: pa.Table, other: Row, other_rows: pa.Table, allowed: Tolerance) -> ImageDiff:
    before, after = rows.to_pylist(), other_rows.to_pylist()
    sizes = [(row["height"], row["width"]) for row in (image, other) if row["width"] is not None]
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        return ImageDiff(image, other, [], comparable=False)
    pairs = _pairs(rows, other_rows, sizes[0], allowed) if before and after else []
    changes = [_change(before[a], after[b], iou, allowed) for a, b, iou in sorted(pairs)]
    matched = {a for a, _, _ in pairs}, {b for _, b, _ in pairs}
    changes += [Change(Kind.LOST, row, None, 0.0) for n, row in enumerate(before) if n not in matched[0]]
    changes += [Change(Kind.GAINED, None, row, 0.0) for n, row in enumerate(after) if n not in matched[1]]
    return ImageDiff(image, other, changes)


def _pairs(
    rows: pa.Table, other_rows: pa.Table, size: tuple[int, int], allowed: Tolerance
) -> list[tuple[int, int, float]]:
    """Matched instances. Of equal masks, those of one class and then of near scores belong together."""
    found = overlaps(Shapes.of_rows(rows, size), Shapes.of_rows(other_rows, size))
    names = [np.array(table["category"].to_pylist(), object) for table in (rows, other_rows)]
    scores = [table["score"].to_numpy() for table in (rows, other_rows)]
    differs = (names[0][found.first] != names[1][found.second]).astype(np.int64)
    apart = np.abs(scores[0][found.first] - scores[1][found.second]).astype(np.float64)
    return match(found, allowed.match, (differs, apart))


def _change(before: Row, after: Row, iou: float, allowed: Tolerance) -> Change:
    if before["category"] != after["category"]:
        kind = Kind.CLASS
    else:
        kind = Kind.SAME if iou >= allowed.shape else Kind.SHAPE
    return Change(kind, before, after, iou)
