"""Roofs and vehicles: drawn upright in their own frame at several times the size, then turned and shrunk."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from jobs.scenes.raster import Array, Colour, Light, Sprite, blob_noise, rotate, shade, to_bytes, vary

ROOF_COLOURS: tuple[Colour, ...] = (
    (168, 92, 68),
    (140, 74, 58),
    (128, 126, 124),
    (96, 98, 104),
    (176, 174, 168),
    (112, 92, 78),
    (92, 112, 128),
)
PAINTS: tuple[Colour, ...] = (
    (228, 228, 226),
    (178, 180, 184),
    (60, 62, 66),
    (168, 38, 34),
    (44, 78, 148),
    (214, 176, 52),
    (96, 104, 108),
)
MACHINE_PAINTS: tuple[Colour, ...] = ((40, 116, 52), (186, 44, 34), (38, 92, 168), (222, 150, 38))
GLASS: Colour = (38, 46, 54)
MARGIN = 4  # empty pixels around a drawing, times its scale


def _place(
    category: str, x: float, y: float, drawing: tuple[Image.Image, Image.Image], angle: float, scale: int,
    height: float,
) -> Sprite:  # fmt: skip
    rgb, alpha = rotate(*drawing, angle, scale)
    top, left = round(y - alpha.shape[0] / 2), round(x - alpha.shape[1] / 2)
    return Sprite(category, left, top, rgb, alpha, height)


def roof(
    rng: np.random.Generator, x: float, y: float, length: float, width: float, angle: float, light: Light
) -> Sprite:
    """A gabled or hipped roof of length x width pixels centred on (x, y), its ridge at ``angle`` radians."""
    scale = 2
    rows, columns = round(width * scale), round(length * scale)
    hip = float(rng.choice([0.0, 0.0, 0.5])) * rows
    colour = np.array(vary(rng, ROOF_COLOURS[int(rng.integers(len(ROOF_COLOURS)))], 0.08), np.float32)
    bright = _slopes(rows, columns, hip, angle, float(rng.uniform(0.35, 0.7)), light)
    bright *= _tiles(rng, rows, columns, scale)
    rgb = to_bytes(colour * bright[..., None])
    border = MARGIN * scale
    canvas = Image.new("RGB", (columns + 2 * border, rows + 2 * border), shade(tuple(colour), 0.6))
    mask = Image.new("L", canvas.size, 0)
    canvas.paste(Image.fromarray(rgb), (border, border))
    mask.paste(255, (border, border, border + columns, border + rows))
    _fittings(rng, ImageDraw.Draw(canvas), tuple(colour), (border, border, columns, rows), hip, scale)
    return _place("roof", x, y, (canvas, mask), angle, scale, height=float(rng.uniform(0.3, 0.5)) * width)


def _slopes(rows: int, columns: int, hip: float, angle: float, pitch: float, light: Light) -> Array:
    """Brightness of each roof face under the sun: float32 (rows, columns)."""
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float32)
    upper = down < rows / 2
    edge_y = np.minimum(down, rows - down)
    edge_x = np.minimum(across, columns - across)
    ends = edge_x * (rows / 2) < edge_y * hip
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    flat = float(np.hypot(1, pitch))

    def face(local_x: float, local_y: float) -> float:
        normal = (local_x * cos - local_y * sin, local_x * sin + local_y * cos)
        return 0.42 + 0.8 * light.lambert(normal[0] * pitch / flat, normal[1] * pitch / flat, 1 / flat)

    bright = np.where(upper, face(0, -1), face(0, 1))
    ending = np.where(across < columns / 2, face(-1, 0), face(1, 0))
    return np.asarray(np.where(ends, ending, bright), np.float32)


def _tiles(rng: np.random.Generator, rows: int, columns: int, scale: int) -> Array:
    """Courses of tiles or ribs of sheet metal, weathering and a dark rim: float32 (rows, columns)."""
    period = float(rng.uniform(3, 6)) * scale
    strength = float(rng.uniform(0.03, 0.09))
    line = np.cos(2 * np.pi * np.arange(columns, dtype=np.float32) / period)[None]
    if rng.uniform() < 0.5:
        line = np.cos(2 * np.pi * np.arange(rows, dtype=np.float32) / period)[:, None]
    texture: Array = 1 + strength * line + 0.03 * blob_noise(rng, rows, columns, 2 * scale)
    texture = texture + 0.045 * blob_noise(rng, rows, columns, 22 * scale)
    for edge in (texture[:scale], texture[-scale:], texture[:, :scale], texture[:, -scale:]):
        edge *= 0.78
    return texture


def _fittings(
    rng: np.random.Generator, paint: ImageDraw.ImageDraw, colour: Colour, box: tuple[int, int, int, int],
    hip: float, scale: int,
) -> None:  # fmt: skip
    """The ridge, and now and then a chimney or skylights."""
    left, top, columns, rows = box
    ridge = top + rows // 2
    paint.line([left + hip, ridge, left + columns - hip, ridge], fill=shade(colour, 1.3), width=scale)
    for _ in range(int(rng.integers(0, 4))):
        size = rng.uniform(4, 7) * scale
        x = left + rng.uniform(0.2, 0.75) * columns
        y = top + (rng.uniform(0.12, 0.28) if rng.uniform() < 0.5 else rng.uniform(0.58, 0.72)) * rows
        tone = shade(GLASS, 1.4) if rng.uniform() < 0.6 else shade((150, 90, 76), 1)
        paint.rectangle([x, y, x + 1.3 * size, y + size], fill=tone, outline=shade(colour, 0.55))


def vehicle(
    rng: np.random.Generator, x: float, y: float, length: float, angle: float, on_field: bool
) -> Sprite:
    """A tractor (likely on a field), car or pick-up, ``length`` pixels long, heading ``angle``."""
    scale = 3
    kind = rng.choice(["car", "pickup", "tractor"], p=[0.1, 0.1, 0.8] if on_field else [0.56, 0.22, 0.22])
    width = length * float(rng.uniform(0.42, 0.5)) * (1.3 if kind == "tractor" else 1.0)
    size = (round((length + 2 * MARGIN) * scale), round((width + 2 * MARGIN) * scale))
    paints = MACHINE_PAINTS if kind == "tractor" else PAINTS
    colour = vary(rng, paints[int(rng.integers(len(paints)))], 0.06)
    image, mask = Image.new("RGB", size, shade(colour, 0.5)), Image.new("L", size, 0)
    pen = _Pen(image, mask, length * scale, width * scale, MARGIN * scale)
    if kind == "tractor":
        _tractor(pen, colour)
    else:
        _car(pen, colour, kind == "pickup")
    return _place("vehicle", x, y, (image, mask), angle, scale, height=0.32 * length)


class _Pen:
    """Draws in units of a vehicle: x from 0 (rear) to 1 (front), y from -1 (left side) to 1 (right side)."""

    def __init__(
        self, image: Image.Image, mask: Image.Image, length: float, width: float, border: int
    ) -> None:
        self.paint, self.cut = ImageDraw.Draw(image), ImageDraw.Draw(mask)
        self.length, self.width, self.border = length, width, border

    def _point(self, x: float, y: float) -> tuple[float, float]:
        return self.border + x * self.length, self.border + (y + 1) / 2 * self.width

    def body(
        self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour, factor: float
    ) -> None:
        """A rounded part of the silhouette."""
        box = [*self._point(x0, y0), *self._point(x1, y1)]
        self.cut.rounded_rectangle(box, radius * self.width, fill=255)
        self.detail(x0, y0, x1, y1, radius, colour, factor)

    def detail(
        self, x0: float, y0: float, x1: float, y1: float, radius: float, colour: Colour, factor: float
    ) -> None:
        """A rounded part drawn over the silhouette."""
        box = [*self._point(x0, y0), *self._point(x1, y1)]
        self.paint.rounded_rectangle(box, radius * self.width, fill=shade(colour, factor))

    def pane(self, corners: list[tuple[float, float]]) -> None:
        """A window with these corners."""
        self.paint.polygon([self._point(x, y) for x, y in corners], fill=shade(GLASS, 1.0))


def _car(pen: _Pen, colour: Colour, pickup: bool) -> None:
    pen.body(0, -0.92, 1, 0.92, 0.24, colour, 0.72)
    pen.detail(0.02, -0.84, 0.98, 0.84, 0.2, colour, 1.0)
    rear = 0.42 if pickup else 0.14
    pen.pane([(0.72, -0.74), (0.72, 0.74), (0.6, 0.6), (0.6, -0.6)])
    pen.pane([(rear, -0.68), (rear, 0.68), (rear + 0.08, 0.58), (rear + 0.08, -0.58)])
    for side in (-1, 1):
        pen.pane(
            [(rear + 0.08, 0.76 * side), (0.66, 0.76 * side), (0.6, 0.64 * side), (rear + 0.11, 0.64 * side)]
        )
        pen.body(0.64, min(0.86 * side, side), 0.69, max(0.86 * side, side), 0.02, colour, 0.7)
        pen.detail(0.94, 0.66 * side - 0.12, 0.985, 0.66 * side + 0.12, 0.02, (236, 234, 214), 1.0)
        pen.detail(0.015, 0.7 * side - 0.1, 0.05, 0.7 * side + 0.1, 0.02, (160, 36, 30), 1.0)
    pen.detail(rear + 0.09, -0.6, 0.6, 0.6, 0.08, colour, 1.12)
    if pickup:
        pen.detail(0.05, -0.7, 0.37, 0.7, 0.04, (58, 56, 54), 1.0)


def _tractor(pen: _Pen, colour: Colour) -> None:
    tyre: Colour = (44, 42, 40)
    pen.body(0.1, -0.2, 0.95, 0.2, 0.05, tyre, 1.3)
    for side in (-1, 1):
        near, far = sorted((0.52 * side, side))
        pen.body(0.0, near, 0.44, far, 0.09, tyre, 1.0)
        pen.detail(0.05, near + 0.1, 0.39, far - 0.1, 0.05, tyre, 1.35)
        near, far = sorted((0.5 * side, 0.84 * side))
        pen.body(0.68, near, 0.93, far, 0.07, tyre, 1.0)
        near, far = sorted((0.42 * side, 0.74 * side))
        pen.body(0.07, near, 0.38, far, 0.06, colour, 0.85)
    pen.body(0.44, -0.33, 1.0, 0.33, 0.08, colour, 0.95)
    pen.detail(0.46, -0.13, 0.98, 0.13, 0.04, colour, 1.18)
    pen.body(0.06, -0.55, 0.5, 0.55, 0.07, GLASS, 1.0)
    pen.detail(0.11, -0.44, 0.43, 0.44, 0.06, colour, 1.1)
