"""Small pictures of instances in their images, with outlines: what a difference looks like."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.decode import DecodeLimits, decode
from pipeline.maskviews import pixel_polygons
from pipeline.records import InputRejected
from pipeline.storage import Store, StoreError, StoreOptions

BEFORE, AFTER = (255, 140, 0), (0, 140, 255)
"""Orange and blue: told apart by nearly all eyes."""
_SHORTEST, _LONGEST = 320, 640
"""The picture's longest edge in pixels, at least and at most."""
_MARGIN = 0.6
"""Of the instance's size that is shown around it, on each side."""
_LEAST_MARGIN = 16
_GREY = 128

Outline = tuple[Mapping[str, Any], tuple[int, int, int]]
"""A row with `mask` and `area`, and the colour of its line."""


class Cutouts:
    """Makes pictures of parts of images; the image last used is kept."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._uri: str | None = None
        self._image: NDArray[np.uint8] | None = None

    def jpeg(self, uri: str | None, size: tuple[int, int], outlines: Sequence[Outline]) -> bytes:
        """The part of the image around the outlines, on grey where the image cannot be had.

        `size` is (height, width) of the image as its tables say; one of another size counts as not there.
        """
        left, top, right, bottom = _region([row["mask"] for row, _ in outlines], size)
        image = self._read(uri)
        if image is None or image.shape[:2] != size:
            shown = np.full((bottom - top, right - left, 3), _GREY, np.uint8)
        else:
            shown = image[top:bottom, left:right]
        scale = _scale(right - left, bottom - top)
        wide, high = (max(1, round(side * scale)) for side in (right - left, bottom - top))
        picture = Image.fromarray(shown).resize((wide, high), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for row, colour in outlines:
            _draw(pen, row, (left, top), scale, colour)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=82)
        return data.getvalue()

    def _read(self, uri: str | None) -> NDArray[np.uint8] | None:
        if uri != self._uri:
            self._uri, self._image = uri, None
            folder, _, name = (uri or "").rpartition("/")
            try:
                if name:
                    data = Store.open(folder or "/", self._options).get(name)
                    self._image = decode(data, DecodeLimits())
            except (StoreError, InputRejected):
                pass  # the outlines alone say enough
        return self._image


def _region(masks: Sequence[Mapping[str, int]], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top = min(m["x"] for m in masks), min(m["y"] for m in masks)
    right, bottom = max(m["x"] + m["width"] for m in masks), max(m["y"] + m["height"] for m in masks)
    margin = max(_LEAST_MARGIN, round(_MARGIN * max(right - left, bottom - top)))
    height, width = size
    return (
        max(0, left - margin),
        max(0, top - margin),
        min(width, right + margin),
        min(height, bottom + margin),
    )


def _scale(width: int, height: int) -> float:
    longest = max(width, height)
    return min(max(1.0, _SHORTEST / longest), _LONGEST / longest)


def _draw(
    pen: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    corner: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """Outline a mask, with a dark line under the coloured one."""
    shape = pixel_polygons(pa.table({"mask": [row["mask"]], "area": [row["area"]]}))[0]
    for part in shapely.get_parts(shape):
        for ring in (part.exterior, *part.interiors):
            points = (shapely.get_coordinates(ring) - corner) * scale
            line = [tuple(point) for point in points.tolist()]
            pen.line(line, fill=(0, 0, 0), width=4, joint="curve")
            pen.line(line, fill=colour, width=2, joint="curve")
