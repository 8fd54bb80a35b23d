"""The plan of a scene: its light and a mosaic of parcels in a turned field frame, each worked in its own way.

Sizes are in pixels and counts go with the area, so a canvas of any size shows things of the same sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from jobs.scenes.plants import Species, draw_species
from jobs.scenes.raster import Array, Colour, Light, vary
from jobs.scenes.trees import draw_crown_colour

KINDS = ("crop", "orchard", "meadow", "yard", "stubble")
KIND_WEIGHTS = (0.44, 0.09, 0.14, 0.25, 0.08)
SOILS: tuple[Colour, ...] = ((126, 102, 78), (142, 116, 88), (108, 88, 70), (150, 128, 104), (134, 100, 74))
GROUNDS: dict[str, tuple[Colour, ...]] = {
    "crop": SOILS,
    "orchard": ((118, 124, 80), (132, 122, 88)),
    "meadow": ((124, 132, 84), (142, 140, 92), (112, 122, 78)),
    "yard": ((158, 152, 142), (142, 134, 122), (168, 158, 140), (126, 124, 120)),
    "stubble": ((184, 162, 112), (168, 146, 100)),
}
Coordinate = TypeVar("Coordinate", float, Array)


@dataclass(frozen=True)
class Frame:
    """The field frame: u runs along the strips, v across, in pixels from the centre, turned by ``angle``."""

    angle: float
    centre_x: float
    centre_y: float

    def to_field(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Canvas coordinates to (u, v)."""
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = x - np.float32(self.centre_x), y - np.float32(self.centre_y)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def to_canvas(self, u: Coordinate, v: Coordinate) -> tuple[Coordinate, Coordinate]:
        """(u, v) to canvas coordinates."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        return self.centre_x + u * cos - v * sin, self.centre_y + u * sin + v * cos


@dataclass(frozen=True)
class Parcel:
    """One rectangle of the mosaic, in the field frame, and how it is worked."""

    kind: str
    u0: float
    u1: float
    v0: float
    v1: float
    ground: Colour
    row_angle: float  # of the rows, against the u axis
    row_spacing: float
    row_phase: float
    pitch: float  # between neighbours in a row
    radius: float  # of a plant or crown
    fill: float  # the share of places taken
    tramline: int  # every so many rows is a wheel track; 0 for none
    species: Species
    crown: Colour


@dataclass(frozen=True)
class Layout:
    """All that is decided before anything is drawn."""

    width: int
    height: int
    scale: float
    light: Light
    frame: Frame
    strips: Array  # (n + 1,) v of the borders between strips
    roads: Array  # (n + 1,) half width of the road along each border, 0 for none
    cuts: tuple[Array, ...]  # for each strip, the u of the borders between its parcels
    parcels: tuple[Parcel, ...]  # strip by strip


def _borders(rng: np.random.Generator, reach: float, low: float, high: float) -> Array:
    """Increasing borders that cover -reach..reach, their distances between low and high."""
    count = int(np.ceil((2 * reach + high) / low)) + 1
    steps = rng.uniform(low, high, count)
    borders = -reach - rng.uniform(0, 1) * high + np.concatenate([[0.0], np.cumsum(steps)])
    last = int(np.searchsorted(borders, reach)) + 1
    return borders[:last]


def draw_layout(rng: np.random.Generator, width: int, height: int) -> Layout:
    """Cut the canvas into parcels and decide how each is worked."""
    scale = float(rng.uniform(0.8, 1.2))
    sun = rng.uniform(0, 2 * np.pi)
    light = Light(float(np.cos(sun)), float(np.sin(sun)), float(rng.uniform(0.35, 1.05)))
    frame = Frame(float(rng.uniform(0, 2 * np.pi)), width / 2, height / 2)
    reach = float(np.hypot(width, height)) / 2 + 40
    strips = _borders(rng, reach, 330 * scale, 760 * scale)
    roads = np.where(rng.uniform(size=len(strips)) < 0.45, rng.uniform(13, 24, len(strips)) * scale, 0.0)
    cuts = tuple(_borders(rng, reach, 340 * scale, 900 * scale) for _ in strips[:-1])
    parcels = [
        _parcel(rng, scale, (u0, u1, v0 + road0, v1 - road1))
        for cut, v0, v1, road0, road1 in zip(
            cuts, strips[:-1], strips[1:], roads[:-1], roads[1:], strict=True
        )
        for u0, u1 in pairwise(cut.tolist())
    ]
    return Layout(width, height, scale, light, frame, strips, roads, cuts, tuple(parcels))


def _parcel(rng: np.random.Generator, scale: float, box: tuple[float, float, float, float]) -> Parcel:
    kind = str(rng.choice(KINDS, p=KIND_WEIGHTS))
    if box[0] < 0 <= box[1] and box[2] < 0 <= box[3] and rng.uniform() < 0.55:
        kind = "crop"  # so that few pictures are without one
    colours = GROUNDS[kind]
    if kind == "orchard":
        radius = float(rng.uniform(26, 40)) * scale
        pitch, spacing = radius * float(rng.uniform(1.9, 2.6)), radius * float(rng.uniform(2.5, 3.4))
    else:
        radius = float(rng.uniform(15, 33)) * scale
        pitch = max(radius * float(rng.uniform(1.4, 2.1)), 36.0 * scale)
        spacing = max(radius * float(rng.uniform(2.1, 3.0)), 56.0 * scale)
    return Parcel(
        kind,
        *box,
        ground=vary(rng, colours[int(rng.integers(len(colours)))], 0.06),
        row_angle=float(rng.choice([0.0, 0.5 * np.pi]) + rng.normal(0, 0.02)),
        row_spacing=spacing,
        row_phase=float(rng.uniform(0, spacing)),
        pitch=pitch,
        radius=radius,
        fill=float(rng.uniform(0.6, 0.95)),
        tramline=int(rng.choice([0, 4, 5, 6])),
        species=draw_species(rng),
        crown=draw_crown_colour(rng),
    )


def row_index(parcel: Parcel, across: Array) -> Array:
    """The number of the row nearest to a distance across the rows."""
    return np.round((across - parcel.row_phase) / parcel.row_spacing)
