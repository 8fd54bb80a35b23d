"""Training examples, and the changes made to them: pure functions on image and masks together.

A mask is a crop with its place, so that an example of many instances stays small until its target is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from condinst import rle
from condinst.config import SIZE_DIVISOR, Part
from condinst.preprocess import padded_size
from condinst.targets import Target

Random = np.random.Generator


@dataclass(frozen=True)
class CropMask:
    """One instance: a bool crop (h, w) whose top left pixel is x, y of the image; not empty."""

    x: int
    y: int
    mask: NDArray[np.bool_]
    category: int
    """Class index."""


@dataclass(frozen=True)
class StoredMask:
    """One instance as it is kept: a crop's COCO compressed RLE, opened once a view needs it."""

    x: int
    y: int
    height: int
    width: int
    counts: bytes
    category: int
    """Class index."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width) bool, decoded anew each time."""
        return rle.decode(self.counts, self.height, self.width)

    def opened(self) -> CropMask:
        """The same with its pixels."""
        return CropMask(self.x, self.y, self.mask, self.category)

    def filled(self) -> StoredMask:
        """Its filled box: all that a box alone tells."""
        return replace(self, counts=rle.from_runs(np.array([0, self.height * self.width])))


@dataclass(frozen=True)
class Labelled:
    """An image and its instances as they are kept."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    instances: tuple[StoredMask, ...]


@dataclass(frozen=True)
class Example:
    """An image and its instances."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    instances: tuple[CropMask, ...]


def crop(
    example: Example | Labelled, x: int, y: int, width: int, height: int, *, min_pixels: int = 16
) -> Example:
    """The window whose top left is x, y; it may reach past the right and bottom edge, which pads with black.

    Instances of which fewer than `min_pixels` remain are left out; stored ones are opened if their box meets
    the window.
    """
    window = example.image[y : y + height, x : x + width]
    padding = ((0, height - window.shape[0]), (0, width - window.shape[1]), (0, 0))
    kept = (_crop_mask(m, x, y, width, height, min_pixels) for m in example.instances)
    return Example(np.pad(window, padding), tuple(m for m in kept if m is not None))


def _crop_mask(
    m: CropMask | StoredMask, x: int, y: int, width: int, height: int, min_pixels: int
) -> CropMask | None:
    h, w = (m.height, m.width) if isinstance(m, StoredMask) else m.mask.shape
    left, top = max(m.x, x), max(m.y, y)
    right, bottom = min(m.x + w, x + width), min(m.y + h, y + height)
    if right <= left or bottom <= top:
        return None
    m = m.opened() if isinstance(m, StoredMask) else m
    part = m.mask[top - m.y : bottom - m.y, left - m.x : right - m.x]
    return trim(replace(m, x=left - x, y=top - y, mask=part), min_pixels)


def trim(m: CropMask, min_pixels: int = 1) -> CropMask | None:
    """The same instance with its crop as tight as can be; None if it has fewer than `min_pixels`."""
    if m.mask.sum() < max(min_pixels, 1):
        return None
    rows, columns = np.flatnonzero(m.mask.any(1)), np.flatnonzero(m.mask.any(0))
    # A copy: a view would keep the whole frame that it was cut from.
    part = m.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return replace(m, x=m.x + int(columns[0]), y=m.y + int(rows[0]), mask=part)


def flip(example: Example) -> Example:
    """Mirrored left to right."""
    width = example.image.shape[1]
    return Example(
        example.image[:, ::-1],
        tuple(replace(m, x=width - m.x - m.mask.shape[1], mask=m.mask[:, ::-1]) for m in example.instances),
    )


def turn(example: Example) -> Example:
    """Turned by 90 degrees counter-clockwise."""
    width = example.image.shape[1]
    return Example(
        np.rot90(example.image),
        tuple(
            replace(m, x=m.y, y=width - m.x - m.mask.shape[1], mask=np.rot90(m.mask))
            for m in example.instances
        ),
    )


def rescale(example: Example, scale: float) -> Example:
    """Both edges multiplied by `scale` and rounded; masks by the nearest pixel centre."""
    height, width = example.image.shape[:2]
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    resized = Image.fromarray(np.ascontiguousarray(example.image)).resize(
        (new_w, new_h), Image.Resampling.BILINEAR
    )
    scaled = (_rescale_mask(m, new_w / width, new_h / height, new_w, new_h) for m in example.instances)
    return Example(np.asarray(resized), tuple(m for m in scaled if m is not None))


def _rescale_mask(m: CropMask, sx: float, sy: float, width: int, height: int) -> CropMask | None:
    h, w = m.mask.shape
    left, right = int(np.floor(m.x * sx)), min(width, int(np.ceil((m.x + w) * sx)))
    top, bottom = int(np.floor(m.y * sy)), min(height, int(np.ceil((m.y + h) * sy)))
    columns = np.floor((np.arange(left, right) + 0.5) / sx).astype(int) - m.x
    rows = np.floor((np.arange(top, bottom) + 0.5) / sy).astype(int) - m.y
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))[None, :]
    picked = m.mask[rows.clip(0, h - 1)[:, None], columns.clip(0, w - 1)[None, :]] & inside
    return trim(replace(m, x=left, y=top, mask=picked))


def colour(example: Example, random: Random, strength: float = 0.25) -> Example:
    """Brightness, contrast and each channel's gain changed by up to `strength`."""
    brightness, contrast = random.uniform(1 - strength, 1 + strength, 2)
    gain = random.uniform(1 - strength / 2, 1 + strength / 2, 3)
    mean = example.image.mean()
    # What becomes of each of the 256 levels of a channel, rather than of each pixel.
    levels = np.arange(256.0)[:, None]
    table = ((levels - mean) * contrast + mean) * brightness * gain
    table = table.clip(0, 255).astype(np.uint8)
    image = np.stack([table[:, channel][example.image[..., channel]] for channel in range(3)], axis=2)
    return replace(example, image=image)


def paste(example: Example, other: Example, chosen: Sequence[int], *, min_pixels: int = 16) -> Example:
    """The example with some instances of another one of its size on top (Ghiasi et al., CVPR 2021).

    What they cover is taken out of the masks below; those of which fewer than `min_pixels` stay visible are
    left out.
    """
    over = np.zeros(example.image.shape[:2], bool)
    taken = [other.instances[number] for number in chosen]
    for m in taken:
        over[m.y : m.y + m.mask.shape[0], m.x : m.x + m.mask.shape[1]] |= m.mask
    below = (trim(replace(m, mask=m.mask & ~_window(over, m)), min_pixels) for m in example.instances)
    image = np.where(over[:, :, None], other.image, example.image)
    return Example(image, (*(m for m in below if m is not None), *taken))


def _window(pixels: NDArray[np.bool_], m: CropMask) -> NDArray[np.bool_]:
    return pixels[m.y : m.y + m.mask.shape[0], m.x : m.x + m.mask.shape[1]]


class AugmentConfig(Part):
    """How training views are made of images."""

    size: Annotated[int, Field(ge=64, le=4096, multiple_of=32)] = 320
    """Shorter edge of the views the network learns from, network input pixels; a multiple of 32."""
    aspect: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Their longer edge by the shorter one. Over 1 a view lies or stands as its image does, and a step learns
    from images that lie or from images that stand; `turns` are then of 180 degrees alone."""
    more_sizes: tuple[Annotated[int, Field(ge=64, le=4096, multiple_of=32)], ...] = ()
    """Other edges: each step draws one of them or `size` (multi-scale training)."""
    smallest_scale: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Least factor by which a view is rescaled, on top of the model's own resize rule."""
    largest_scale: Annotated[float, Field(ge=1, le=10)] = 1.35
    """Largest such factor."""
    flip: bool = True
    """Mirror half of the views left to right."""
    turns: bool = True
    """Turn views by 0, 90, 180 or 270 degrees: for images without an up, as from the air."""
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Most change of brightness and contrast; half of it of each channel."""
    copy_paste: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of views on which instances of another image's view are pasted; needs masks."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shorter edges that a step's views may have."""
        return (self.size, *self.more_sizes)

    def shape(self, size: int, lying: bool) -> tuple[int, int]:
        """(height, width) of views whose shorter edge is `size`; multiples of 32."""
        longer = max(size, round(size * self.aspect / SIZE_DIVISOR) * SIZE_DIVISOR)
        return (size, longer) if lying else (longer, size)


def random_view(
    example: Example | Labelled,
    random: Random,
    config: AugmentConfig,
    base_scale: float = 1.0,
    shape: tuple[int, int] | None = None,
) -> Example:
    """A view of `shape` (height, width): rescaled, cropped, flipped, turned and recoloured at random.

    `base_scale` is what the model's resize rule does to the image; the shape is by default the one that
    `config.size` and `config.aspect` give for the image.
    """
    height, width = example.image.shape[:2]
    view_h, view_w = shape or config.shape(config.size, width >= height)
    jitter = random.uniform(np.log(config.smallest_scale), np.log(config.largest_scale))
    scale = base_scale * float(np.exp(jitter))
    span_h, span_w = min(height, round(view_h / scale)), min(width, round(view_w / scale))
    y, x = int(random.integers(height - span_h + 1)), int(random.integers(width - span_w + 1))
    view = rescale(crop(example, x, y, span_w, span_h), scale)
    if config.flip and random.random() < 0.5:
        view = flip(view)
    quarters = int(random.integers(4)) if config.turns else 0
    for _ in range(quarters if view_h == view_w else quarters // 2 * 2):
        view = turn(view)
    return colour(crop(view, 0, 0, view_w, view_h), random, config.colour)


def random_paste(view: Example, other: Example, random: Random) -> Example:
    """A view with a random part of another view's instances on top."""
    return paste(view, other, np.flatnonzero(random.random(len(other.instances)) < 0.5).tolist())


def to_box_target(example: Example) -> Target:
    """The training target of an example of which only the boxes are known (BoxInst), on its padded size."""
    size = padded_size((example.image.shape[0], example.image.shape[1]))
    boxes = torch.tensor(
        [[m.x, m.y, m.x + m.mask.shape[1], m.y + m.mask.shape[0]] for m in example.instances],
        dtype=torch.float32,
    ).reshape(-1, 4)
    classes = torch.tensor([m.category for m in example.instances], dtype=torch.int64)
    return Target.from_boxes(boxes, classes, size)


def to_target(example: Example) -> Target:
    """The training target of an example, on its padded size."""
    size = padded_size((example.image.shape[0], example.image.shape[1]))
    classes = torch.tensor([m.category for m in example.instances], dtype=torch.int64)
    return Target.from_crops([(m.x, m.y, m.mask) for m in example.instances], classes, size)
