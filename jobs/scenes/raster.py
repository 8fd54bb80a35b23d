"""Small drawing tools shared by the scene generator: smooth noise, colour, sprites and their shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array: TypeAlias = NDArray[Any]
Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """The sun of one scene: unit vector in the image *towards* it, and shadow length per unit of height."""

    x: float
    y: float
    reach: float

    def lambert(self, normal_x: float, normal_y: float, normal_z: float) -> float:
        """Brightness in 0..1 of a surface with this unit normal (x right, y down, z towards the camera)."""
        length = float(np.hypot(1.0, self.reach))
        return max(0.0, (normal_x * self.x * self.reach + normal_y * self.y * self.reach + normal_z) / length)


@dataclass
class Sprite:
    """One drawn thing: ``rgb`` uint8 (h, w, 3), ``alpha`` uint8 (h, w), at (left, top) of the canvas.

    ``height`` is how far it stands above the ground in pixels; ``footing`` is where along its height its
    shadow begins (0: walls down to the ground, 0.5: a crown on a trunk). ``category`` is None for unlabelled
    things.
    """

    category: str | None
    left: int
    top: int
    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    height: float
    footing: float = 0.0


class Noise:
    """Smooth unit-variance noise over a canvas, its features about ``cell`` pixels wide; read by windows."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, cell: float) -> None:
        self.cell = cell
        shape = (int((height + 4) / cell) + 6, int((width + 4) / cell) + 6)
        self.grid = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))

    def window(self, top: int, left: int, height: int, width: int, step: int = 1) -> Array:
        """Every ``step``-th pixel of a window: float32 (ceil(height / step), ceil(width / step)).

        The window may reach out of the canvas by two pixels on each side, and by what ``step`` rounds up.
        """
        rows, columns = -(-height // step), -(-width // step)
        x, y = 3 + left / self.cell, 3 + top / self.cell
        box = (x, y, x + columns * step / self.cell, y + rows * step / self.cell)
        return np.asarray(self.grid.resize((columns, rows), Image.Resampling.BICUBIC, box=box))


def blob_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Array:
    """Smooth noise for one small crop: float32 (height, width)."""
    return Noise(rng, height, width, cell).window(0, 0, height, width)


def to_bytes(values: Array) -> NDArray[np.uint8]:
    """Clip to 0..255 and make uint8."""
    return np.clip(values, 0, 255).astype(np.uint8)


def shade(colour: Colour, factor: float) -> tuple[int, int, int]:
    """The colour (0..255) times a factor, clipped, as integers for ImageDraw."""
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def vary(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """The colour with its brightness and, half as much, each channel changed by a share ``amount``."""
    gain = 1 + amount * rng.standard_normal()
    red, green, blue = (channel * gain * (1 + 0.5 * amount * rng.standard_normal()) for channel in colour)
    return red, green, blue


def rotate(rgb: Image.Image, alpha: Image.Image, angle: float, reduce: int) -> tuple[Array, Array]:
    """Turn a supersampled drawing by ``angle`` radians (x axis towards y) and shrink it.

    The colours outside the drawing should match its rim, so that the blended edge takes no foreign tint.
    Returns uint8 (h, w, 3) and uint8 (h, w).
    """
    width, height = rgb.size
    side_x = abs(width * np.cos(angle)) + abs(height * np.sin(angle))
    side_y = abs(width * np.sin(angle)) + abs(height * np.cos(angle))
    size = (int(np.ceil(side_x / reduce) + 1) * reduce, int(np.ceil(side_y / reduce) + 1) * reduce)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = (  # from the turned picture back to the drawing
        cos, sin, width / 2 - cos * size[0] / 2 - sin * size[1] / 2,
        -sin, cos, height / 2 + sin * size[0] / 2 - cos * size[1] / 2,
    )  # fmt: skip
    fill = rgb.getpixel((0, 0))
    how = Image.Resampling.BILINEAR
    turned = rgb.transform(size, Image.Transform.AFFINE, matrix, how, fillcolor=fill)
    mask = alpha.transform(size, Image.Transform.AFFINE, matrix, how)
    return np.array(turned.reduce(reduce)), np.array(mask.reduce(reduce))


def shadow_mask(sprite: Sprite, light: Light) -> tuple[int, int, NDArray[np.uint8]]:
    """Its shadow on flat ground, the silhouette swept away from the sun: (left, top, uint8 (h, w))."""
    reach_x, reach_y = -light.x * light.reach * sprite.height, -light.y * light.reach * sprite.height
    height, width = sprite.alpha.shape
    steps = max(2, int(max(abs(reach_x), abs(reach_y)) * (1 - sprite.footing) / 2))
    shifts = [
        (round(reach_x * part), round(reach_y * part)) for part in np.linspace(sprite.footing, 1.0, steps)
    ]
    left, top = min(x for x, _ in shifts), min(y for _, y in shifts)
    right, bottom = max(x for x, _ in shifts), max(y for _, y in shifts)
    swept = np.zeros((height + bottom - top, width + right - left), np.uint8)
    for x, y in dict.fromkeys(shifts):
        part = swept[y - top : y - top + height, x - left : x - left + width]
        np.maximum(part, sprite.alpha, out=part)
    return sprite.left + left, sprite.top + top, swept


def overlap(left: int, top: int, shape: tuple[int, int], canvas: tuple[int, int]) -> tuple[Any, Any] | None:
    """Where a crop at (left, top) meets a canvas: slices of the canvas and of the crop, or None."""
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(canvas[1], left + shape[1]), min(canvas[0], top + shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    inside = (slice(y0, y1), slice(x0, x1))
    return inside, (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
