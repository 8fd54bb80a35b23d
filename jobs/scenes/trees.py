"""Trees: crowns built as a height field of domes, lit by the sun, with a leafy rim."""

from __future__ import annotations

import numpy as np

from jobs.scenes.raster import Array, Colour, Light, Sprite, blob_noise, to_bytes, vary

CROWN_COLOURS: tuple[Colour, ...] = (
    (58, 84, 40),
    (44, 72, 40),
    (76, 98, 46),
    (94, 104, 54),
    (52, 80, 56),
    (132, 104, 50),  # autumn
)
CROWN_WEIGHTS = (0.26, 0.22, 0.2, 0.14, 0.12, 0.06)


def draw_crown_colour(rng: np.random.Generator) -> Colour:
    """A random crown colour."""
    return vary(rng, CROWN_COLOURS[int(rng.choice(len(CROWN_COLOURS), p=CROWN_WEIGHTS))], 0.08)


def _domes(rng: np.random.Generator, radius: float) -> Array:
    """Lumps of a crown: (n, 4) of x, y, radius, height around its centre."""
    count = int(np.clip(rng.normal(0.45 * radius, 4), 12, 34))
    size = radius * rng.uniform(0.22, 0.4, count)
    distance = (radius - size) * np.sqrt(rng.uniform(0, 1, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    lift = radius * (0.7 * np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1)) + rng.uniform(0, 0.15, count))
    core = [[0.0, 0.0, 0.72 * radius, 0.15 * radius]]
    return np.concatenate(
        [core, np.stack([distance * np.cos(angle), distance * np.sin(angle), size, lift], 1)]
    )


def _crown(rng: np.random.Generator, radius: float, half: int) -> tuple[Array, Array]:
    """Height of the crown and signed depth inside its outline, both float32 (2 half, 2 half), in pixels."""
    side = 2 * half
    height = np.zeros((side, side), np.float32)
    depth = np.full((side, side), -1e3, np.float32)
    for x, y, size, lift in _domes(rng, radius):
        reach = int(size) + 3
        x0, y0 = max(0, int(half + x) - reach), max(0, int(half + y) - reach)
        x1, y1 = min(side, int(half + x) + reach + 1), min(side, int(half + y) + reach + 1)
        dx = np.arange(x0, x1, dtype=np.float32) - np.float32(half + x)
        dy = np.arange(y0, y1, dtype=np.float32) - np.float32(half + y)
        square = dx[None] ** 2 + dy[:, None] ** 2
        part = depth[y0:y1, x0:x1]
        np.maximum(part, size - np.sqrt(square), out=part)
        part = height[y0:y1, x0:x1]
        np.maximum(
            part, lift + np.sqrt(np.maximum(size * size - square, 0)), out=part, where=square < size * size
        )
    return height, depth


def tree(rng: np.random.Generator, colour: Colour, x: float, y: float, radius: float, light: Light) -> Sprite:
    """One tree whose crown has about ``radius`` pixels, around (x, y)."""
    half = int(np.ceil(radius)) + 4
    side = 2 * half
    height, depth = _crown(rng, radius, half)
    leaves = blob_noise(rng, side, side, 2.2)
    height = height + 0.022 * radius * blob_noise(rng, side, side, 4.0) + 0.4 * leaves
    slope_y, slope_x = np.gradient(height)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1.2)
    lit = (1.1 - 0.9 * (slope_x * light.x + slope_y * light.y)) / length
    tall = np.clip(height / (1.1 * radius), 0, 1)
    bright = (0.5 + 0.62 * np.clip(lit, 0, 1.3)) * (0.62 + 0.45 * tall) * (1 + 0.1 * leaves)
    tint = np.array(vary(rng, colour, 0.07), np.float32)
    warm = np.array([1.12, 1.06, 0.82], np.float32)  # sunlit leaves are yellower
    mix = np.clip(bright - 0.75, 0, 1)[..., None]
    rgb = tint * bright[..., None] * 1.25 * (1 + mix * (warm - 1))
    alpha = np.clip(depth + 0.9 * leaves + 0.5, 0, 1) * 255
    return Sprite(
        "tree", round(x) - half, round(y) - half, to_bytes(rgb), to_bytes(alpha), 1.1 * radius, footing=0.35
    )
