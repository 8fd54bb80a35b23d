"""Stitched instances on their way to their rows' order, on the local disk: 40 bytes of each in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from condinst.instances import Instances, RleMasks
from pipeline.stitch.order import KEY, order_keys, row_order
from pipeline.stitch.regions import Ints

_FIXED = np.dtype(
    [
        ("box", np.float32, 4),
        ("score", np.float32),
        ("category", np.int64),
        ("x", np.int32),
        ("y", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("area", np.int64),
        ("offset", np.int64),
        ("length", np.int64),
    ]
)
_MASKS = ("x", "y", "height", "width", "area")
BATCH, BATCH_BYTES = 1 << 16, 1 << 20
"""Instances, and bytes of their masks' runs, handed out at a time: polygons take fifty times as many."""


class Spool:
    """Takes instances of some rasters in any order; gives each raster's in the order of its rows."""

    def __init__(self) -> None:
        self._fixed = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._counts = tempfile.TemporaryFile()  # noqa: SIM115
        self._written = 0
        self._keys: list[NDArray[np.void]] = []
        self._owners: list[Ints] = []

    def __enter__(self) -> Self:
        """Ready for use."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the disk back."""
        self._fixed.close()
        self._counts.close()

    def __len__(self) -> int:
        return sum(map(len, self._owners))

    def add(self, found: Instances, owner: Ints) -> None:
        """Take instances in the pixels of their rasters, whose numbers are `owner` (n,)."""
        if not len(found):
            return
        rows = np.empty(len(found), _FIXED)
        rows["box"], rows["score"], rows["category"] = found.boxes, found.scores, found.classes
        for name in _MASKS:
            rows[name] = getattr(found.masks, name)
        rows["length"] = [len(counts) for counts in found.masks.counts]
        rows["offset"] = self._written + np.cumsum(rows["length"]) - rows["length"]
        self._written += int(rows["length"].sum())
        self._fixed.write(rows.tobytes())
        self._counts.write(b"".join(found.masks.counts))
        self._keys.append(order_keys(found))
        self._owners.append(owner.astype(np.int64))

    def rows(self, raster: int, without: NDArray[np.bool_] | None = None) -> Iterator[Instances]:
        """A raster's instances in order, some at a time; `without` (all instances,) are left out."""
        owners, keys = self._joined()
        keep = owners == raster if without is None else (owners == raster) & ~without
        mine = np.flatnonzero(keep)
        if not len(mine):
            return
        mine = mine[row_order(keys[mine])]
        fixed, counts = self._mapped()
        for batch in _batches(fixed["length"][mine]):
            yield _instances(fixed[mine[batch]], counts)

    def all(self) -> Iterator[tuple[Instances, Ints]]:
        """All instances and their rasters' numbers, as they came."""
        owners, _ = self._joined()
        if not len(owners):
            return
        fixed, counts = self._mapped()
        for batch in _batches(fixed["length"]):
            yield _instances(fixed[batch], counts), owners[batch]

    def _joined(self) -> tuple[Ints, NDArray[np.void]]:
        """Owners and keys of all instances; put together once, however many rasters ask."""
        self._owners = [np.concatenate([np.zeros(0, np.int64), *self._owners])]
        self._keys = [np.concatenate([np.zeros(0, KEY), *self._keys])]
        return self._owners[0], self._keys[0]

    def _mapped(self) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        self._fixed.flush()
        self._counts.flush()
        return np.memmap(self._fixed, _FIXED, mode="r"), np.memmap(self._counts, np.uint8, mode="r")


def _batches(lengths: Ints) -> Iterator[slice]:
    """Consecutive slices, none with many more instances or bytes than a batch may have."""
    number = np.cumsum(lengths) // BATCH_BYTES + np.arange(len(lengths)) // BATCH
    cuts = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(lengths)).tolist()
    yield from (slice(begin, end) for begin, end in pairwise(cuts))


def _instances(rows: NDArray[np.void], counts: NDArray[np.uint8]) -> Instances:
    rows = np.array(rows)
    ends = rows["offset"] + rows["length"]
    texts = [counts[begin:end].tobytes() for begin, end in zip(rows["offset"], ends, strict=True)]
    masks = RleMasks(**{name: rows[name].copy() for name in _MASKS}, counts=texts)
    return Instances(rows["box"].copy(), rows["score"].copy(), rows["category"].copy(), masks)
