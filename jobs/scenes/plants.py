"""Plants: rosettes of teardrop leaves with a midrib and veins, lit from one side and shading each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from jobs.scenes.raster import Array, Colour, Light, Sprite, blob_noise, shade, to_bytes, vary

LEAF_COLOURS: tuple[Colour, ...] = (
    (74, 122, 46),
    (98, 142, 52),
    (58, 112, 62),
    (120, 158, 74),
    (86, 128, 90),
    (110, 146, 104),
    (106, 70, 84),  # red cabbage, red lettuce
)
LEAF_WEIGHTS = (0.22, 0.2, 0.16, 0.16, 0.11, 0.1, 0.05)
OUTLINE = 11  # points along each side of a leaf


@dataclass(frozen=True)
class Species:
    """What the plants of one parcel have in common: colour, leaves per plant, and the leaf's form."""

    colour: Colour
    leaves: int
    slenderness: float  # width over length
    belly: (
        float  # where the leaf is widest: 1 is the middle, below 1 towards the stem, above 1 towards the tip
    )
    wave: float  # relative waviness of the rim
    rib: float  # brightness of the midrib over the blade
    layers: int  # rings of leaves; the inner ones are smaller, lighter and on top


def draw_species(rng: np.random.Generator) -> Species:
    """A random species."""
    colour = LEAF_COLOURS[int(rng.choice(len(LEAF_COLOURS), p=LEAF_WEIGHTS))]
    return Species(
        colour=vary(rng, colour, 0.08),
        leaves=int(rng.integers(5, 9)),
        slenderness=float(rng.uniform(0.38, 0.8)),
        belly=float(rng.uniform(0.9, 1.9)),
        wave=float(rng.uniform(0.0, 0.09)),
        rib=float(rng.uniform(1.15, 1.5)),
        layers=int(rng.integers(1, 4)),
    )


@dataclass(frozen=True)
class _Leaves:
    """All leaves of one plant, the outer ring first: points (n, OUTLINE, 2) of both rims and the midrib."""

    left: Array
    rib: Array
    right: Array

    def veins(self) -> Array:
        """One line a leaf, (n, k, 2), that runs up the midrib and out along each side vein and back."""
        start, tip = self.rib[:, 2 : OUTLINE - 2 : 2], self.rib[:, 3 : OUTLINE - 1 : 2]
        sides = [0.25 * tip + 0.75 * rim[:, 3 : OUTLINE - 1 : 2] for rim in (self.left, self.right)]
        stops = np.stack([start, sides[0], start, sides[1], start], 2)
        return np.concatenate([self.rib[:, :1], stops.reshape(len(stops), -1, 2)], 1)

    def tilts(self, light: Light) -> Array:
        """How far the right half of each leaf turns to the sun, the left half away from it: (n,) in -1..1."""
        side = self.right[:, OUTLINE // 2] - self.left[:, OUTLINE // 2]
        length = np.maximum(np.hypot(side[:, 0], side[:, 1]), 1e-6)
        return np.asarray((side @ np.array([light.x, light.y])) / length)


def _grow(rng: np.random.Generator, species: Species, radius: float, middle: float) -> _Leaves:
    """The leaves of a plant of this radius whose stem stands at (middle, middle), all in the same unit."""
    angles, lengths = [], []
    for layer in range(species.layers):
        count = max(3, species.leaves - 2 * layer)
        turn = rng.uniform(0, 2 * np.pi) + rng.permutation(count) * (2 * np.pi / count)
        angles.append(turn + rng.normal(0, 0.16, count))
        lengths.append(radius * (1 - 0.3 * layer) * rng.uniform(0.8, 1.0, count))
    angle, length = np.concatenate(angles)[:, None], np.concatenate(lengths)[:, None]
    along = np.linspace(0, 1, OUTLINE)[None]
    bend = angle + rng.normal(0, 0.25, angle.shape) * along
    ahead = np.stack([np.cos(bend), np.sin(bend)], -1)
    rib = middle + (length * (0.05 + 0.95 * along))[..., None] * ahead
    half = 0.5 * species.slenderness * length * np.sin(np.pi * along**species.belly) ** 0.8
    half = half + 0.02 * radius * (along < 0.3)  # the stalk
    across = np.stack([-ahead[..., 1], ahead[..., 0]], -1)
    wave = 1 + species.wave * rng.standard_normal((2, *half.shape))
    return _Leaves(
        rib - across * (half * wave[0])[..., None], rib, rib + across * (half * wave[1])[..., None]
    )


def plant(
    rng: np.random.Generator, species: Species, x: float, y: float, radius: float, light: Light
) -> Sprite:
    """One plant of about ``radius`` pixels around (x, y)."""
    scale = 3 if radius < 24 else 2
    half = int(np.ceil(radius * 1.1)) + 2
    side = 2 * half * scale
    leaves = _grow(rng, species, radius * scale, side / 2)
    image = Image.new("RGB", (side, side), shade(species.colour, 0.45))
    mask = Image.new("L", (side, side), 0)
    for outline in _flat(leaves.left, leaves.right[:, ::-1]):
        ImageDraw.Draw(mask).polygon(outline, fill=255)
    _paint_leaves(rng, ImageDraw.Draw(image), leaves, species, light, scale, 0.07 * radius * scale)
    rgb = _texture(rng, np.asarray(image.reduce(scale), np.float32), light)
    alpha = np.array(mask.reduce(scale))
    return Sprite("plant", round(x) - half, round(y) - half, rgb, alpha, height=0.3 * radius)


def _flat(*parts: Array) -> list[list[float]]:
    """Points (n, k, 2), joined along k: for each of the n leaves its coordinates as ImageDraw takes them."""
    points = np.concatenate(parts, 1)
    flat: list[list[float]] = points.reshape(len(points), -1).tolist()
    return flat


def _paint_leaves(
    rng: np.random.Generator, paint: ImageDraw.ImageDraw, leaves: _Leaves, species: Species, light: Light,
    scale: int, drop: float,
) -> None:  # fmt: skip
    """Paint each leaf upon its shadow: two halves folded along the midrib, lit unequally, then its veins."""
    count = len(leaves.rib)
    age = np.linspace(0.86, 1.14, count) * (1 + 0.07 * rng.standard_normal(count))
    tone = np.array(species.colour) * (age[:, None] * (1 + 0.035 * rng.standard_normal((count, 3))))
    fold = 0.17 * leaves.tilts(light)[:, None]
    fills = [_bytes(tone * factor) for factor in (1 - fold, 1 + fold, 0.5 + 0.5 * species.rib, species.rib)]
    dark = shade(species.colour, 0.45)
    offset = -drop * np.array([light.x, light.y])
    shadows = _flat(leaves.left + offset, leaves.right[:, ::-1] + offset)
    lefts, rights = (_flat(rim, leaves.rib[:, ::-1]) for rim in (leaves.left, leaves.right))
    veins, ribs = _flat(leaves.veins()), _flat(leaves.rib[:, :-1])
    for leaf in range(count):
        paint.polygon(shadows[leaf], fill=dark)
        paint.polygon(lefts[leaf], fill=fills[0][leaf])
        paint.polygon(rights[leaf], fill=fills[1][leaf])
        paint.line(veins[leaf], fill=fills[2][leaf], width=1)
        paint.line(ribs[leaf], fill=fills[3][leaf], width=scale)


def _bytes(colours: Array) -> list[tuple[int, int, int]]:
    """Colours (n, 3) as ImageDraw takes them."""
    return [(red, green, blue) for red, green, blue in to_bytes(colours).tolist()]


def _texture(rng: np.random.Generator, rgb: Array, light: Light) -> NDArray[np.uint8]:
    """Fine mottling, and a slope of light over the whole plant."""
    side = rgb.shape[0]
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    slope = 1 + 0.13 * (light.x * ramp[None] + light.y * ramp[:, None])
    mottle = 1 + 0.065 * blob_noise(rng, side, side, 3.0)
    return to_bytes(rgb * (slope * mottle)[..., None])
