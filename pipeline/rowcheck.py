"""Holds the rows of one shard against its manifest, its commit record and each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from condinst import rle
from pipeline.commit import Commit
from pipeline.findings import Fault, Faults
from pipeline.records import Status

IMAGE_COLUMNS = ("image_id", "status", "instances", "width", "height")
INSTANCE_COLUMNS = (
    "image_id", "instance_id", "category_id", "category", "score", "area", "mask", "geometry",
)  # fmt: skip
STATUSES = frozenset(status.value for status in Status)


@dataclass(frozen=True)
class ShardImages:
    """What `images` says of one shard's inputs, in columns: what its instances are held against."""

    ids: pa.Array
    status: pa.Array
    instances: NDArray[np.int64]
    width: NDArray[np.int64]
    """0 where the image was not decoded."""
    height: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> ShardImages:
        """Take the columns `IMAGE_COLUMNS` of a shard's table."""
        table = table.combine_chunks()
        return cls(
            ids=_column(table["image_id"]),
            status=_column(table["status"]),
            instances=_ints(table["instances"]),
            width=_ints(table["width"]),
            height=_ints(table["height"]),
        )

    def check(self, expected: Sequence[str] | None, record: Commit, faults: Faults) -> None:
        """Note where the rows differ from the manifest's image ids (None: not known) and the record."""
        if expected is not None:
            self._check_inputs(expected, faults)
        counts = Counter(self.status.to_pylist())
        if unknown := sorted(set(counts) - STATUSES):
            faults.add(Fault.STATUS, "images", f"status {unknown[0]!r} is none of the eight")
        elif counts != {name: number for name, number in record.counts.items() if number}:
            said, are = _listed(record.counts), _listed(counts)
            faults.add(Fault.COUNTS, "images", f"the record counts {said}, the rows are {are}")
        ok = pc.equal(self.status, Status.OK.value).to_numpy(zero_copy_only=False)
        if len(wrong := np.flatnonzero(ok != (self.instances > 0))):
            at = int(wrong[0])
            said = f"image {self.ids[at].as_py()!r} is {self.status[at].as_py()}"
            faults.add(
                Fault.INSTANCES, "images", f"{said} with {self.instances[at]} instances", times=len(wrong)
            )

    def _check_inputs(self, expected: Sequence[str], faults: Faults) -> None:
        ids = self.ids.to_pylist()
        if ids == list(expected):
            return
        differing = (at for at, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1])
        at = next(differing, None)
        what = f"{len(ids):,} rows for the manifest's {len(expected):,} images"
        if at is not None:
            what += f"; row {at} is {ids[at]!r}, the manifest says {expected[at]!r}"
        faults.add(Fault.INPUTS, "images", what)


class InstanceRows:
    """Takes a shard's rows of `instances` batch by batch and notes what is wrong with them."""

    def __init__(self, images: ShardImages, masks: NDArray[np.int64] | None, faults: Faults) -> None:
        """`masks` are the rows whose masks are decoded, rising; None decodes all."""
        self.images = images
        self.rows = 0
        self.decoded = 0
        self.categories: Counter[tuple[int, str]] = Counter()
        """Rows by class index and name."""
        self.geometries = 0
        """Rows with a geometry."""
        self._masks, self._faults = masks, faults
        self._found = np.zeros(len(images.ids), dtype=np.int64)
        self._ok = pc.equal(images.status, Status.OK.value).to_numpy(zero_copy_only=False)
        self._last = (-1, -1, np.inf)

    def take(self, batch: pa.RecordBatch) -> None:
        """Check the next rows, which have the columns `INSTANCE_COLUMNS`."""
        place = pc.fill_null(pc.index_in(batch["image_id"], value_set=self.images.ids), -1)
        places = place.to_numpy(zero_copy_only=False).astype(np.int64)
        self._check_images(batch, places)
        self._check_order(batch, places)
        self._check_masks(batch, places)
        self._count_categories(batch)
        self.rows += batch.num_rows

    def finish(self, record: Commit) -> None:
        """Check what only all rows together tell."""
        if len(wrong := np.flatnonzero(self._found != self.images.instances)):
            at = int(wrong[0])
            name, said = self.images.ids[at].as_py(), self.images.instances[at]
            what = f"image {name!r} has {self._found[at]} rows in instances, images.instances says {said}"
            self._faults.add(Fault.INSTANCES, "images", what, times=len(wrong))
        if record.instances != self.rows:
            what = f"the record says {record.instances:,} instances, there are {self.rows:,} rows"
            self._faults.add(Fault.COUNTS, "instances", what)
        names: Counter[str] = Counter()
        for (_, name), number in self.categories.items():
            names[name] += number
        if names != {name: number for name, number in record.classes.items() if number}:
            what = f"the record counts {_listed(record.classes)}, the rows are {_listed(names)}"
            self._faults.add(Fault.COUNTS, "instances", what)

    def _check_images(self, batch: pa.RecordBatch, places: NDArray[np.int64]) -> None:
        known = places >= 0
        self._found += np.bincount(places[known], minlength=len(self._found))
        wrong = ~known
        wrong[known] = ~self._ok[places[known]]
        self._note(Fault.IMAGE, batch, wrong, "belongs to no ok image of the shard")

    def _check_order(self, batch: pa.RecordBatch, places: NDArray[np.int64]) -> None:
        numbers = _ints(batch["instance_id"])
        scores = batch["score"].to_numpy(zero_copy_only=False)
        last_place, last_number, last_score = self._last
        before = np.concatenate([[last_place], places[:-1]])
        follows = places == before
        expected = np.where(follows, np.concatenate([[last_number], numbers[:-1]]) + 1, 0)
        # "not at most" rather than "greater": a score that is not a number is no order.
        rising = follows & ~(scores <= np.concatenate([[last_score], scores[:-1]]))
        rising |= ~((scores >= 0) & (scores <= 1))
        for fault, wrong, what in (
            (Fault.ORDER, (places < before) & (places >= 0), "comes after those of a later image"),
            (Fault.ORDER, numbers != expected, "is not the next of its image"),
            (Fault.SCORE, rising, "has a score over the one before it, or none within 0 and 1"),
        ):
            self._note(fault, batch, wrong, what)
        if batch.num_rows:
            self._last = (int(places[-1]), int(numbers[-1]), float(scores[-1]))

    def _check_masks(self, batch: pa.RecordBatch, places: NDArray[np.int64]) -> None:
        crops = {name: _ints(batch["mask"].field(name)) for name in ("x", "y", "height", "width")}
        inside = (crops["x"] >= 0) & (crops["y"] >= 0) & (crops["height"] > 0) & (crops["width"] > 0)
        width, height = self.images.width, self.images.height
        if len(width):
            inside &= (crops["x"] + crops["width"] <= width[places]) | (places < 0)
            inside &= (crops["y"] + crops["height"] <= height[places]) | (places < 0)
        self._note(Fault.MASK, batch, ~inside, "has a crop that is not inside its image")
        has_geometry = batch["geometry"].is_valid().to_numpy(zero_copy_only=False)
        self.geometries += int(has_geometry.sum())
        for at in self._sampled(batch.num_rows):
            self.decoded += 1
            if inside[at]:
                self._decode(batch, int(at), int(crops["height"][at]), int(crops["width"][at]))
            if has_geometry[at] and (wrong := geometry_problem(batch["geometry"][int(at)].as_py())):
                self._faults.add(Fault.GEOMETRY, "instances", f"{_name(batch, int(at))}: {wrong}")

    def _note(self, fault: Fault, batch: pa.RecordBatch, wrong: NDArray[np.bool_], what: str) -> None:
        """Note the rows that are wrong: the first by name."""
        if len(places := np.flatnonzero(wrong)):
            self._faults.add(fault, "instances", f"{_name(batch, int(places[0]))} {what}", times=len(places))

    def _sampled(self, rows: int) -> NDArray[np.int64]:
        """Rows of a batch whose masks are decoded."""
        if self._masks is None:
            return np.arange(rows)
        first, end = np.searchsorted(self._masks, [self.rows, self.rows + rows])
        return self._masks[first:end] - self.rows

    def _decode(self, batch: pa.RecordBatch, at: int, height: int, width: int) -> None:
        counts, area = batch["mask"].field("counts")[at].as_py(), batch["area"][at].as_py()
        if wrong := mask_problem(counts, height, width, area):
            self._faults.add(Fault.MASK, "instances", f"{_name(batch, at)}: {wrong}")

    def _count_categories(self, batch: pa.RecordBatch) -> None:
        names = batch["category"].dictionary_decode()
        pairs = pa.table({"id": batch["category_id"], "name": names}).group_by(["id", "name"])
        for row in pairs.aggregate([([], "count_all")]).to_pylist():
            self.categories[row["id"], row["name"]] += row["count_all"]


def mask_problem(counts: bytes, height: int, width: int, area: int) -> str | None:
    """Say what is wrong with a crop's RLE; None when it has `area` pixels and is tight.

    Found from the runs alone: a crop may be as large as a raster.
    """
    try:
        lengths = rle.runs(counts)
    except ValueError as error:
        return str(error)
    if lengths.sum() != height * width:
        return f"its RLE has {lengths.sum():,} pixels, its crop of {height}x{width} has {height * width:,}"
    edges = np.cumsum(lengths)
    starts, ends = edges[:-1:2], edges[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    pixels = int((ends - starts).sum())
    if pixels != area or not pixels:
        return f"its RLE has {pixels:,} pixels set, area says {area:,}"
    # Runs go down the columns: one that goes on in the next column holds the last row and the first.
    crosses = starts // height != (ends - 1) // height
    top, bottom = (starts % height == 0) | crosses, (ends % height == 0) | crosses
    tight = starts[0] < height and ends[-1] > (width - 1) * height and top.any() and bottom.any()
    return None if tight else f"its crop of {height}x{width} is larger than its pixels need"


def geometry_problem(wkb: bytes) -> str | None:
    """Say what is wrong with a geometry; None when it is a valid polygon, or several, with an area."""
    import shapely

    try:
        shape = shapely.from_wkb(wkb)
    except shapely.errors.GEOSException as error:
        return f"its geometry is no WKB: {error}"
    if shape.geom_type not in ("Polygon", "MultiPolygon"):
        return f"its geometry is no polygon but a {shape.geom_type}"
    if not shape.is_valid:
        return f"its geometry is not valid: {shapely.is_valid_reason(shape)}"
    return None if shape.area > 0 else "its geometry has no area"


def _name(batch: pa.RecordBatch, at: int) -> str:
    return f"image {batch['image_id'][at].as_py()!r} instance {batch['instance_id'][at].as_py()}"


def _column(values: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)


def _ints(values: Any) -> NDArray[np.int64]:
    """A column of whole numbers; null is 0."""
    return pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def _listed(counts: Any) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()) if number) or "none"
