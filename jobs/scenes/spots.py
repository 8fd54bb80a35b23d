"""Where things stand: plants and orchard trees in rows, the rest where there is room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jobs.scenes.layout import Layout, Parcel
from jobs.scenes.raster import Array

# Roofs, vehicles and single trees per 10,000 square pixels of each kind of parcel.
DENSITY: dict[str, tuple[float, float, float]] = {
    "crop": (0.0, 0.035, 0.09),
    "orchard": (0.0, 0.06, 0.0),
    "meadow": (0.1, 0.09, 0.45),
    "yard": (0.36, 0.7, 0.28),
    "stubble": (0.05, 0.16, 0.1),
}


@dataclass(frozen=True)
class Spot:
    """A place for one thing: its centre on the canvas, its size and its heading (radians).

    ``size`` is the radius of a plant or tree, the length of the rest; ``width`` is a roof's; ``on_field``
    tells a vehicle among crops from one on a road or a yard.
    """

    what: str
    parcel: Parcel
    x: float
    y: float
    size: float
    angle: float = 0.0
    width: float = 0.0
    on_field: bool = False


def in_rows(rng: np.random.Generator, layout: Layout, parcel: Parcel) -> Iterator[Spot]:
    """The plants of a crop or the trees of an orchard."""
    u, v, taken = _lattice(rng, parcel)
    size = parcel.radius * np.clip(rng.normal(1, 0.13, u.shape), 0.62, 1.3)
    inset = 0.9 * parcel.radius
    taken &= (u > parcel.u0 + inset) & (u < parcel.u1 - inset)
    taken &= (v > parcel.v0 + inset) & (v < parcel.v1 - inset)
    x, y = layout.frame.to_canvas(u, v)
    taken &= (x > -size) & (x < layout.width + size) & (y > -size) & (y < layout.height + size)
    what = "plant" if parcel.kind == "crop" else "tree"
    for place in zip(x[taken].tolist(), y[taken].tolist(), size[taken].tolist(), strict=True):
        yield Spot(what, parcel, *place)


def _lattice(rng: np.random.Generator, parcel: Parcel) -> tuple[Array, Array, Array]:
    """Places along rows that cover the parcel and more, (rows, places): u, v, and whether each is taken."""
    reach = float(np.hypot(parcel.u1 - parcel.u0, parcel.v1 - parcel.v0)) / 2
    u, v = (parcel.u0 + parcel.u1) / 2, (parcel.v0 + parcel.v1) / 2
    cos, sin = float(np.cos(parcel.row_angle)), float(np.sin(parcel.row_angle))
    first = int(np.ceil((v * cos - u * sin - reach - parcel.row_phase) / parcel.row_spacing))
    rows = np.arange(first, first + int(2 * reach / parcel.row_spacing) + 1)[:, None]
    steps = np.arange(-reach, reach, parcel.pitch)[None]
    shape = (rows.size, steps.size)
    along = u * cos + v * sin + steps + rng.uniform(0, parcel.pitch, rows.shape)
    along = along + rng.normal(0, 0.1 * parcel.pitch, shape)
    across = rows * parcel.row_spacing + parcel.row_phase + rng.normal(0, 0.05 * parcel.pitch, shape)
    taken = rng.uniform(size=shape) < parcel.fill
    if parcel.tramline and parcel.kind == "crop":
        taken &= rows % parcel.tramline != 0
    return along * cos - across * sin, along * sin + across * cos, taken


class Placer:
    """Keeps what stands up from standing in each other."""

    def __init__(self) -> None:
        self.taken = np.empty((0, 3))

    def free(self, x: float, y: float, radius: float) -> bool:
        """Whether a disc is free; if so it is taken from now on."""
        near = np.hypot(self.taken[:, 0] - x, self.taken[:, 1] - y) < self.taken[:, 2] + radius
        if near.any():
            return False
        self.taken = np.concatenate([self.taken, [[x, y, radius]]])
        return True


def scattered(rng: np.random.Generator, layout: Layout, parcel: Parcel, placer: Placer) -> Iterator[Spot]:
    """Roofs, then vehicles, then single trees of one parcel."""
    area = (parcel.u1 - parcel.u0) * (parcel.v1 - parcel.v0) / 1e4 / layout.scale**2
    for what, density in zip(("roof", "vehicle", "tree"), DENSITY[parcel.kind], strict=True):
        for _ in range(int(rng.poisson(area * density))):
            spot = _scatter(rng, layout, parcel, what)
            margin = spot.size
            inside = -margin < spot.x < layout.width + margin and -margin < spot.y < layout.height + margin
            if inside and placer.free(spot.x, spot.y, _clearance(spot)):
                yield spot


def _clearance(spot: Spot) -> float:
    """The radius a thing keeps for itself; crowns may meet."""
    return {"roof": 0.56, "vehicle": 0.52, "tree": 0.78}[spot.what] * spot.size


def _scatter(rng: np.random.Generator, layout: Layout, parcel: Parcel, what: str) -> Spot:
    inset = 40 * layout.scale if what == "roof" else 12  # a roof keeps off the road
    u = float(rng.uniform(parcel.u0 + inset, parcel.u1 - inset))
    v = float(rng.uniform(parcel.v0 + inset, parcel.v1 - inset))
    x, y = layout.frame.to_canvas(u, v)
    aligned = layout.frame.angle + parcel.row_angle + 0.5 * np.pi * float(rng.integers(4))
    if what == "tree":
        if parcel.kind == "crop":  # in the hedge, not among the rows
            v = parcel.v0 if rng.uniform() < 0.5 else parcel.v1
            x, y = layout.frame.to_canvas(u, v + float(rng.normal(0, 6)))
        return Spot(what, parcel, x, y, float(np.clip(rng.lognormal(3.5, 0.35), 15, 66)) * layout.scale)
    if what == "roof":
        length = float(rng.uniform(56, 122)) * layout.scale
        wide = max(32 * layout.scale, length * float(rng.uniform(0.5, 0.85)))
        return Spot(what, parcel, x, y, length, aligned + rng.normal(0, 0.04), wide)
    on_field = parcel.kind in ("crop", "orchard", "stubble")
    heading = aligned + rng.normal(0, 0.1 if on_field else 0.5)
    length = float(rng.uniform(34, 62)) * layout.scale
    return Spot(what, parcel, x, y, length, heading, on_field=on_field)


def on_roads(rng: np.random.Generator, layout: Layout, placer: Placer) -> Iterator[Spot]:
    """Vehicles along the roads."""
    reach = float(np.hypot(layout.width, layout.height)) / 2
    for v, half in zip(layout.strips.tolist(), layout.roads.tolist(), strict=True):
        if not half:
            continue
        for _ in range(int(rng.poisson(2 * reach / 420 / layout.scale))):
            u = float(rng.uniform(-reach, reach))
            x, y = layout.frame.to_canvas(u, v + float(rng.normal(0, 0.12 * half)))
            heading = layout.frame.angle + np.pi * float(rng.integers(2)) + rng.normal(0, 0.05)
            length = float(rng.uniform(36, 60)) * layout.scale
            spot = Spot("vehicle", layout.parcels[0], x, y, length, heading)
            inside = -40 < x < layout.width + 40 and -40 < y < layout.height + 40
            if inside and placer.free(x, y, _clearance(spot)):
                yield spot


def draw_spots(rng: np.random.Generator, layout: Layout) -> list[Spot]:
    """Every thing of the scene, in the order in which it is painted: plants, vehicles, roofs, trees."""
    placer = Placer()
    spots = list(on_roads(rng, layout, placer))
    for parcel in layout.parcels:
        spots += scattered(rng, layout, parcel, placer)
    for parcel in layout.parcels:
        if parcel.kind in ("crop", "orchard"):
            spots += in_rows(rng, layout, parcel)
    order = ("plant", "vehicle", "roof", "tree")
    return sorted(spots, key=lambda spot: order.index(spot.what))
