"""One instance's mask in the forms that programs want: crop, whole frame, polygon, COCO RLE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from condinst import rle
from pipeline.rowmasks import combined, rle_masks

MASK_COLUMNS = ("image_id", "instance_id", "category", "score", "area", "mask")


_ROWS = 4096
"""Masks traced together."""


@dataclass(frozen=True)
class Mask:
    """An instance with its mask. Sizes are (height, width) in pixels of its image."""

    image_id: str
    instance_id: int
    category: str
    score: float
    area: int
    """Pixels of the mask."""
    corner: tuple[int, int]
    """x and y of the crop's top left pixel in the image."""
    crop_size: tuple[int, int]
    image_size: tuple[int, int]
    counts: bytes
    """COCO compressed RLE of the crop."""

    def crop(self) -> NDArray[np.bool_]:
        """The pixels of the tight crop, (height, width) of `crop_size`."""
        return rle.decode(self.counts, *self.crop_size)

    def full(self) -> NDArray[np.bool_]:
        """The pixels of the whole image, (height, width) of `image_size`."""
        frame = np.zeros(self.image_size, bool)
        (x, y), (height, width) = self.corner, self.crop_size
        frame[y : y + height, x : x + width] = self.crop()
        return frame

    def polygon(self) -> Any:
        """A shapely polygon or multipolygon along the pixels' edges, holes included; y grows downward."""
        row = {"x": self.corner[0], "y": self.corner[1], "counts": self.counts}
        row |= {"height": self.crop_size[0], "width": self.crop_size[1]}
        return pixel_polygons(pa.table({"mask": [row], "area": [self.area]}))[0]

    def rle(self) -> dict[str, Any]:
        """The whole image's COCO compressed RLE, as pycocotools takes it; nothing is decoded for it."""
        counts = rle.embed(self.counts, *self.corner, *self.crop_size, *self.image_size)
        return {"size": list(self.image_size), "counts": counts}


def masks_of(images: Mapping[str, tuple[int, int]], rows: pa.Table) -> Iterator[Mask]:
    """The rows, which have `MASK_COLUMNS`, one by one; `images` are their images' sizes by id."""
    for row in rows.to_pylist():
        mask = row["mask"]
        yield Mask(
            image_id=row["image_id"],
            instance_id=row["instance_id"],
            category=row["category"],
            score=row["score"],
            area=row["area"],
            corner=(mask["x"], mask["y"]),
            crop_size=(mask["height"], mask["width"]),
            image_size=images[row["image_id"]],
            counts=mask["counts"],
        )


def pixel_polygons(rows: pa.Table) -> NDArray[np.object_]:
    """(n,) shapely polygons of rows with `mask` and `area`, in image pixels: many at once is quick."""
    from pipeline.geo import polygons

    some = [rows.slice(at, _ROWS) for at in range(0, max(rows.num_rows, 1), _ROWS)]
    found: NDArray[np.object_] = np.concatenate([polygons.pixel_polygons(rle_masks(part)) for part in some])
    return found


def boxes(rows: pa.Table) -> NDArray[np.float32]:
    """(n, 4) left, top, right, bottom of rows with `bbox`, in image pixels."""
    box = combined(rows["bbox"])
    x, y, width, height = (box.field(name).to_numpy() for name in ("x", "y", "width", "height"))
    return np.stack([x, y, x + width, y + height], axis=1)
