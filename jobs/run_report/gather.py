"""One pass over a run's tables: counts, distributions, errors, and the images worth looking at.

Memory holds some shards' columns at a time and what they add up to, whatever their number.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.progress import GOOD
from jobs.viewer.pixels import DECODED
from pipeline.tables import Run

SCORE_BINS = 50
"""Of 0 to 1."""
PER_OCTAVE = 2
"""Bins of an area for each time that it doubles."""
AREA_BINS = 32 * PER_OCTAVE
COUNT_BINS = 32
"""Instances of an image: none, 1, 2 to 3, 4 to 7, ..."""
EXAMPLES = 3
FAILURES = 6
"""Inputs that were not segmented and are shown one by one."""
_KINDS = 200
"""Kinds of error told apart."""
_PIXELS = 30_000_000
"""Larger images are not drawn, but parts of those that were cut into windows are."""
_IMAGES = ("image_id", "status", "error", "width", "height", "instances", "capped", "tiles")
_INSTANCES = ("category", "score", "area", "truncated")
Ints = NDArray[np.int64]


@dataclass
class ClassFigures:
    """One class's instances."""

    instances: int = 0
    truncated: int = 0
    scores: Ints = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    areas: Ints = field(default_factory=lambda: np.zeros(AREA_BINS, np.int64))


@dataclass
class Trouble:
    """Inputs that ended the same way."""

    status: str
    inputs: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Their rows; each has an error."""


class Chosen:
    """The images that rank first by something, as rows like those of the viewer's index."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._order = count(0, -1)  # of equals, the first in plan order

    def offer(self, ranks: NDArray[np.float64], rows: _Rows) -> None:
        """Take in a shard's images; those whose rank is not a number are no candidates."""
        candidates = np.flatnonzero(np.isfinite(ranks))
        best = candidates[np.argsort(-ranks[candidates], kind="stable")][: self._most]
        for at in best:
            rank = float(ranks[at])
            if len(self._heap) < self._most or rank > self._heap[0][0]:
                heapq.heappush(self._heap, (rank, next(self._order), rows.row(int(at))))
                if len(self._heap) > self._most:
                    heapq.heappop(self._heap)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The highest rank first."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


@dataclass
class Gathered:
    """What the tables add up to."""

    statuses: Counter[str] = field(default_factory=Counter)
    classes: dict[str, ClassFigures] = field(default_factory=dict)
    per_image: Ints = field(default_factory=lambda: np.zeros(COUNT_BINS, np.int64))
    """Decoded images by how many instances they have."""
    most_instances: int = 0
    capped: int = 0
    """Images, or windows, with as many instances as a model may find in one."""
    troubles: dict[tuple[str, str], Trouble] = field(default_factory=dict)
    random: Chosen = field(default_factory=lambda: Chosen(6))
    densest: Chosen = field(default_factory=lambda: Chosen(4))
    lowest: Chosen = field(default_factory=lambda: Chosen(4))
    cut: Chosen = field(default_factory=lambda: Chosen(4))

    @property
    def instances(self) -> int:
        """Of all classes."""
        return sum(figures.instances for figures in self.classes.values())

    def total(self, what: str) -> Ints:
        """`scores` or `areas` of all classes."""
        bins = {"scores": SCORE_BINS, "areas": AREA_BINS}[what]
        return sum((getattr(f, what) for f in self.classes.values()), np.zeros(bins, np.int64))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Some inputs that were not segmented: one of each status, then of each reason, then more."""
        by_status: dict[str, list[Trouble]] = {}
        for trouble in sorted(self.troubles.values(), key=lambda trouble: -trouble.inputs):
            by_status.setdefault(trouble.status, []).append(trouble)
        turns = zip_longest(*(_in_turn([t.examples for t in kinds]) for kinds in by_status.values()))
        return [row for turn in turns for row in turn if row is not None][:FAILURES]


def _in_turn(kinds: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The first of each kind, then the second of each, and so on."""
    return (row for turn in zip_longest(*kinds) for row in turn if row is not None)


@dataclass
class _Rows:
    """One shard's images."""

    shard: int
    first: int
    """Number of the first in the run."""
    table: pa.Table

    def row(self, at: int) -> dict[str, Any]:
        return {
            **{name: self.table[name][at].as_py() for name in _IMAGES},
            "shard": self.shard,
            "no": self.first + at,
        }


def gather(run: Run) -> Gathered:
    """Read both tables once."""
    gathered = Gathered()
    dice = np.random.default_rng(int(str(run.job["fingerprint"])[:12], 16))
    for rows, instances in _shards(run):
        counts = np.asarray(rows.table["instances"], np.int64)
        statuses = rows.table["status"].to_numpy()
        gathered.statuses.update(statuses.tolist())
        gathered.capped += pc.sum(rows.table["capped"], min_count=0).as_py()
        decoded = np.isin(statuses, DECODED)
        _count_images(gathered, counts[decoded])
        _count_troubles(gathered, rows)
        _count_instances(gathered, instances)
        _choose(gathered, rows, instances, counts, decoded, dice.random(len(counts)))
    return gathered


def _shards(run: Run) -> Iterator[tuple[_Rows, pa.Table]]:
    first = 0
    parts = zip(run.parts("images", _IMAGES), run.parts("instances", _INSTANCES), strict=True)
    for shard, (images, instances) in enumerate(parts):
        yield _Rows(shard, first, images.combine_chunks()), instances
        first += images.num_rows


def _count_images(gathered: Gathered, counts: Ints) -> None:
    if len(counts):
        gathered.per_image += np.bincount(_octave(counts) + (counts > 0), minlength=COUNT_BINS)[:COUNT_BINS]
        gathered.most_instances = max(gathered.most_instances, int(counts.max()))


def _octave(values: Ints) -> Ints:
    """The power of two that a number reaches."""
    return np.floor(np.log2(np.maximum(values, 1))).astype(np.int64)


def _count_troubles(gathered: Gathered, rows: _Rows) -> None:
    images = rows.table
    bad = pc.invert(pc.is_in(images["status"], value_set=pa.array(GOOD)))
    places = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    told = images.select(["status", "error"]).take(places)
    for at, status, error in zip(places, *(column.to_pylist() for column in told.columns), strict=True):
        kind = (status, gist(error or ""))
        if kind not in gathered.troubles and len(gathered.troubles) >= _KINDS:
            kind = (status, "other")
        trouble = gathered.troubles.setdefault(kind, Trouble(status))
        trouble.inputs += 1
        if len(trouble.examples) < EXAMPLES:
            trouble.examples.append(rows.row(int(at)) | {"error": error or "no reason given"})


def gist(error: str) -> str:
    """An error without what differs from input to input: numbers and what stands in quotes."""
    return re.sub(r"\d[\d.,]*", "N", re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "…", error))[:120]


def _count_instances(gathered: Gathered, instances: pa.Table) -> None:
    if not instances.num_rows:
        return
    category = instances["category"].combine_chunks()
    if isinstance(category, pa.ChunkedArray):
        category = category.unify_dictionaries().combine_chunks()
    label, names = category.indices.to_numpy(), category.dictionary.to_pylist()
    scores = np.clip(np.asarray(instances["score"]) * SCORE_BINS, 0, SCORE_BINS - 1).astype(np.int64)
    areas = np.asarray(instances["area"], np.float64)
    octaves = np.clip(np.log2(np.maximum(areas, 1)) * PER_OCTAVE, 0, AREA_BINS - 1).astype(np.int64)
    cut = np.asarray(instances["truncated"])
    by_score = _by_class(label, scores, len(names), SCORE_BINS)
    by_area = _by_class(label, octaves, len(names), AREA_BINS)
    truncated = np.bincount(label[cut], minlength=len(names))
    for at, name in enumerate(names):
        if by_score[at].any():
            figures = gathered.classes.setdefault(name, ClassFigures())
            figures.instances += int(by_score[at].sum())
            figures.truncated += int(truncated[at])
            figures.scores += by_score[at]
            figures.areas += by_area[at]


def _by_class(label: Ints, bins: Ints, classes: int, most: int) -> Ints:
    counted: Ints = np.bincount(label * most + bins, minlength=classes * most).reshape(classes, most)
    return counted


def _choose(
    gathered: Gathered,
    rows: _Rows,
    instances: pa.Table,
    counts: Ints,
    decoded: NDArray[np.bool_],
    dice: NDArray[np.float64],
) -> None:
    """Offer a shard's images that can be drawn. An image's instances follow one another, in its place."""
    pixels = rows.table["width"].fill_null(0).to_numpy() * rows.table["height"].fill_null(0).to_numpy()
    tiled = rows.table["tiles"].fill_null(0).to_numpy() > 0
    drawable = decoded & ((pixels <= _PIXELS) | tiled)
    found = drawable & (counts > 0)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(instances["score"], np.float64))])
    cuts = np.concatenate([[0], np.cumsum(np.asarray(instances["truncated"], np.int64))])
    ends = np.cumsum(counts)
    starts = ends - counts
    mean = (sums[ends] - sums[starts]) / np.maximum(counts, 1)
    cut = cuts[ends] - cuts[starts]
    gathered.random.offer(np.where(drawable, dice, np.nan), rows)
    gathered.densest.offer(np.where(found, counts, np.nan), rows)
    gathered.lowest.offer(np.where(found, -mean, np.nan), rows)
    gathered.cut.offer(np.where(found & (cut > 0), cut, np.nan), rows)
