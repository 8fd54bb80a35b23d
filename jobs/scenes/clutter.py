"""Unlabelled things a model must learn to leave alone: stones, tufts of weeds, puddles."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from jobs.scenes.layout import Layout
from jobs.scenes.raster import Array, Light, Sprite, blob_noise, shade, to_bytes, vary


def draw_clutter(rng: np.random.Generator, layout: Layout) -> list[Sprite]:
    """Sprites without a category, strewn over the whole canvas."""
    area = layout.width * layout.height / 512**2
    amounts = rng.uniform([0, 10, 10], [2.2, 60, 45]) * area
    sprites: list[Sprite] = []
    for maker, amount in zip((_puddle, _tuft, _stone), amounts.tolist(), strict=True):
        for _ in range(int(rng.poisson(amount))):
            x, y = rng.uniform(0, layout.width), rng.uniform(0, layout.height)
            sprites.append(maker(rng, float(x), float(y), layout.scale, layout.light))
    return sprites


def _stone(rng: np.random.Generator, x: float, y: float, scale: float, light: Light) -> Sprite:
    radius = float(rng.uniform(1.4, 4.2)) * scale
    half = int(radius) + 3
    grid = np.arange(-half, half, dtype=np.float32) + 0.5
    turn = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = grid[None] * cos + grid[:, None] * sin, grid[:, None] * cos - grid[None] * sin
    depth = radius - np.hypot(along, across * float(rng.uniform(1.1, 1.6)))
    tone = 0.85 + 0.25 * (grid[None] * light.x + grid[:, None] * light.y) / radius
    rgb = np.array(vary(rng, (166, 158, 146), 0.1), np.float32) * tone[..., None]
    left, top = round(x) - half, round(y) - half
    return Sprite(None, left, top, to_bytes(rgb), to_bytes(255 * np.clip(depth + 0.5, 0, 1)), 0.7 * radius)


def _tuft(rng: np.random.Generator, x: float, y: float, scale: float, light: Light) -> Sprite:
    """A few thin blades; far from a rosette of leaves."""
    radius = float(rng.uniform(3, 9)) * scale
    half, zoom = int(radius) + 2, 3
    colour = vary(rng, (112, 132, 66), 0.12)
    image = Image.new("RGB", (2 * half * zoom,) * 2, shade(colour, 0.8))
    mask = Image.new("L", image.size, 0)
    paint, cut = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(7, 16))):
        length = radius * zoom * rng.uniform(0.4, 1)
        tip = (half * zoom + length * np.cos(angle), half * zoom + length * np.sin(angle))
        line = [half * zoom, half * zoom, *tip]
        paint.line(line, fill=shade(colour, float(rng.uniform(0.75, 1.2))), width=2)
        cut.line(line, fill=230, width=2)
    rgb, alpha = np.array(image.reduce(zoom)), np.array(mask.reduce(zoom))
    return Sprite(None, round(x) - half, round(y) - half, rgb, alpha, height=1.0)


def _puddle(rng: np.random.Generator, x: float, y: float, scale: float, light: Light) -> Sprite:
    """Standing water or wet mud: a soft dark blotch."""
    half = int(rng.uniform(14, 46) * scale)
    grid = np.linspace(-1, 1, 2 * half, dtype=np.float32)
    shape = (
        0.55 - grid[None] ** 2 - grid[:, None] ** 2 + 0.22 * blob_noise(rng, 2 * half, 2 * half, 0.5 * half)
    )
    alpha = np.clip(shape * 3, 0, 1) * float(rng.uniform(0.3, 0.75))
    colour: Array = np.array(vary(rng, (88, 84, 80), 0.1), np.float32)
    rgb = np.broadcast_to(colour, (2 * half, 2 * half, 3))
    return Sprite(None, round(x) - half, round(y) - half, to_bytes(rgb), to_bytes(alpha * 255), height=0.0)
