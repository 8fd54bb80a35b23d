"""Windows of labelled rasters as images to learn from: the very pixels that a job's model would see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.ahead import ahead
from pipeline.decode import DecodeLimits, decode
from pipeline.export.files import relative
from pipeline.geo.vector_labels import MapLabels
from pipeline.geo.windows import inside
from pipeline.plan import Plan, read_shard
from pipeline.records import ImageRef, InputRejected
from pipeline.settings import SegmentSettings
from pipeline.storage import Store
from pipeline.tiled.frozen import FrozenRaster, read_frozen
from pipeline.tiled.labelled import Labelled, RasterLabels
from pipeline.tiled.pixels import WindowPixels
from pipeline.tiled.planning import open_windows
from pipeline.tiled.reading import WindowReader

READERS = 4
"""Windows read at a time."""
_PLACELESS = "windows of images that do not say where on Earth they lie"
Row = dict[str, Any]


@dataclass
class Chips:
    """A COCO set as far as it is written."""

    images: list[Row] = field(default_factory=list)
    annotations: list[Row] = field(default_factory=list)
    empty: int = 0
    """Images without a label."""
    used: set[int] = field(default_factory=set)
    """Numbers of the labels that are in an image at least."""
    left_out: Counter[str] = field(default_factory=Counter)

    def truth(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The COCO json."""
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


@dataclass(frozen=True)
class Choice:
    """Which windows and labels become part of it."""

    empty: bool = True
    """Whether windows without a label do: nothing is there to be found."""
    least: float = 0.2
    """Share of a label that must be in a window, on data, to count there."""


def write_chips(
    settings: SegmentSettings, plans: Store, plan: Plan, labels: MapLabels, choice: Choice, folder: Path
) -> Chips:
    """Write a PNG a window below `folder`; returns the COCO set that they make.

    `plan` is a tiled job's, kept in `plans`. What cannot be read costs that window, and is counted. Raises
    StoreError, and Unavailable where a store serves nobody.
    """
    assert settings.tiling is not None
    chips, places = Chips(), _Places(labels)
    with closing(WindowReader(settings.sources)) as reader, ThreadPoolExecutor(READERS, "chips") as pool:
        read = partial(_read, reader, settings.limits)
        for refs in _shards(open_windows(plans), plan):
            for ref, pixels in zip(refs, ahead(pool, read, refs, READERS), strict=True):
                if isinstance(pixels, InputRejected):
                    chips.left_out[f"windows that are {pixels.status}"] += 1
                else:
                    _add(chips, ref, pixels, places, choice, folder)
    return chips


def _shards(windows: Store, plan: Plan) -> Iterator[list[ImageRef]]:
    assert plan.windows is not None
    return (read_shard(windows, plan.windows, number) for number in range(plan.windows.shards))


def _read(reader: WindowReader, limits: DecodeLimits, ref: ImageRef) -> WindowPixels | InputRejected:
    try:
        return reader.read(ref, limits, lambda data: decode(data, limits))
    except InputRejected as rejected:
        return rejected


class _Places:
    """Labels in the pixels of the raster that was asked for last: its windows follow one another."""

    def __init__(self, labels: MapLabels) -> None:
        self._labels = labels
        self._last: tuple[str, RasterLabels | None] | None = None

    def on(self, ref: ImageRef, raster: FrozenRaster) -> RasterLabels | None:
        """None where the raster has no place, or none in coordinates that the labels can be brought to."""
        if self._last is None or self._last[0] != ref.uri:
            self._last = ref.uri, self._found(raster)
        return self._last[1]

    def _found(self, raster: FrozenRaster) -> RasterLabels | None:
        if raster.georef is None:
            return None
        try:
            return RasterLabels(self._labels, raster.georef, raster.width, raster.height)
        except ValueError:  # from a survey's own coordinates there is no way to any others
            return None


def _add(
    chips: Chips, ref: ImageRef, pixels: WindowPixels, places: _Places, choice: Choice, folder: Path
) -> None:
    assert ref.window is not None
    raster = read_frozen(ref.raster or "{}")
    on = places.on(ref, raster)
    if on is None:
        chips.left_out[_PLACELESS] += 1
        return
    found = on.within(inside(ref.window, raster.width, raster.height), pixels.valid, choice.least)
    chips.left_out["parts of labels, too small a share to count where a window cuts them"] += found.cut
    if not len(found.masks) and not choice.empty:
        chips.left_out["windows without a label"] += 1
        return
    name = _file_name(ref.image_id)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.rgb).save(path)
    _put(chips, name, pixels.rgb.shape[:2], found)


def _put(chips: Chips, name: str, size: tuple[int, ...], found: Labelled) -> None:
    height, width = size
    number = len(chips.images) + 1
    chips.images.append({"id": number, "file_name": name, "height": height, "width": width})
    chips.empty += not len(found.masks)
    chips.used.update(found.numbers.tolist())
    masks = found.masks
    boxes = np.column_stack([masks.x, masks.y, masks.width, masks.height]).tolist()
    columns = masks.frames((height, width)), found.classes.tolist(), masks.area.tolist(), boxes
    for counts, label, area, box in zip(*columns, strict=True):
        chips.annotations.append(
            {
                "id": len(chips.annotations) + 1,
                "image_id": number,
                "category_id": label + 1,
                "segmentation": {"size": [height, width], "counts": counts.decode()},
                "area": area,
                "bbox": box,
                "iscrowd": 0,
            }
        )


def _file_name(image_id: str) -> str:
    """`ortho.tif:256,0` as `ortho.tif/256_0.png`."""
    raster, _, corner = image_id.rpartition(":")
    return f"{relative(raster)}/{corner.replace(',', '_')}.png"
