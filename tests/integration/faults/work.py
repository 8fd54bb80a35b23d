"""The jobs that are disturbed: one of images, and one of rasters that are cut into windows and stitched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.steps import Step
from tests.rasters import write_raster
from tests.tiny import picture, pictures

SHARD_SIZE = 4
"""Images or windows of a shard."""


@dataclass(frozen=True)
class Work:
    """A job, as far as its faults depend on it."""

    name: str
    inputs: str
    """The folder of its inputs, in the bucket of a lane."""
    rows: int
    """Of `images`."""
    read: int
    """Images or windows that are read."""
    shards: int
    """Of both stages."""
    fill: Callable[[Path], None]
    """Makes the inputs in a folder."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the spec, beside those that all jobs have."""

    def often(self, step: Step) -> int:
        """How many times a job surely comes to a step."""
        return self.read - 4 if step in ("fetch", "decode") else self.shards - 1


def _images(folder: Path) -> None:
    """Thirty images, and two files that are none."""
    pictures(folder, 30)


def _rasters(folder: Path) -> None:
    """Four rasters of six windows, and a file that is none."""
    for seed in range(4):
        bands = picture(seed, 160, 224).transpose(2, 0, 1).copy()
        write_raster(folder / f"{seed}.tif", bands, tiled=True, blockxsize=64, blockysize=64)
    (folder / "cut.tif").write_bytes(b"II*\0" + bytes(40))


IMAGES = Work("images", "in", rows=32, read=32, shards=8, fill=_images)
TILED = Work(
    "tiled",
    "rasters",
    rows=5,
    read=24,
    shards=11,
    fill=_rasters,
    fields={"tiling": {"size": 96, "overlap": 32}},
)
WORKS = {work.name: work for work in (IMAGES, TILED)}
INPUTS = frozenset(work.inputs for work in WORKS.values())
