"""The ground: soil with clods and moisture, crop rows, grass, yards, roads with ruts. All unlabelled."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jobs.scenes.layout import Layout, Parcel, row_index
from jobs.scenes.raster import Array, Colour, Noise, vary

BLOCK = 512  # side of what is made at a time: it meets few parcels and stays in the cache
MARGIN = 2  # made around each block and cut off, so that no seam shows
GRIT = {"crop": 1.0, "orchard": 0.8, "meadow": 0.75, "yard": 0.5, "stubble": 0.9}
GREEN: Colour = (0.86, 1.06, 0.7)
ROAD: Colour = (172, 152, 124)


def paint_ground(rng: np.random.Generator, layout: Layout) -> Array:
    """Paint the whole canvas: uint8 (height, width, 3)."""
    canvas = np.empty((layout.height, layout.width, 3), np.uint8)
    painter = _Ground(rng, layout)
    for top in range(0, layout.height, BLOCK):
        for left in range(0, layout.width, BLOCK):
            part = canvas[top : top + BLOCK, left : left + BLOCK]
            part[:] = painter.block(top, left, *part.shape[:2])
    return canvas


class _Ground:
    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        size = (layout.height, layout.width)
        self.layout = layout
        self.broad = Noise(rng, *size, 170 * layout.scale)
        self.patches = Noise(rng, *size, 48 * layout.scale)
        self.lumps = Noise(rng, *size, 11)
        self.clods = Noise(rng, *size, 3.2)
        self.grit = Noise(rng, *size, 1.6)
        self.road = np.array(vary(rng, ROAD, 0.06), np.float32)
        self.relief = float(rng.uniform(0.06, 0.14))
        self.moisture = float(rng.uniform(0.05, 0.2))

    def block(self, top: int, left: int, height: int, width: int) -> Array:
        """uint8 (height, width, 3). Colours come at half the resolution, relief and grit at the full one."""
        light = self.layout.light
        inner = (slice(MARGIN, MARGIN + height), slice(MARGIN, MARGIN + width))
        window = (top - MARGIN, left - MARGIN, height + 2 * MARGIN, width + 2 * MARGIN)
        soft, rough = self._colours(*window)
        size = (soft.shape[1] * 2, soft.shape[0] * 2)
        base = np.asarray(Image.fromarray(soft).resize(size, Image.Resampling.BILINEAR))[inner]
        amount = np.repeat(np.repeat(rough, 2, 0), 2, 1)[inner]
        clods = self.clods.window(*window)
        lit = clods - np.roll(clods, (round(2 * light.y), round(2 * light.x)), (0, 1))
        grit = self.grit.window(top, left, height, width)
        grain = 1 + amount * (self.relief * lit[inner] + 0.045 * grit)
        return np.clip(base * grain[..., None], 0, 255).astype(np.uint8)

    def _colours(self, top: int, left: int, height: int, width: int) -> tuple[Array, Array]:
        """At half resolution: uint8 (h, w, 3) colours, and float32 (h, w) strength of the relief."""
        layout = self.layout
        broad, patches, lumps = (
            noise.window(top, left, height, width, 2) for noise in (self.broad, self.patches, self.lumps)
        )
        y = np.arange(top, top + height, 2, dtype=np.float32)[:, None]
        x = np.arange(left, left + width, 2, dtype=np.float32)[None]
        u, v = layout.frame.to_field(x, y)
        u, v = u + 1.5 * lumps, v + 1.5 * lumps
        which = self._parcels(u, v)
        present = np.unique(which)
        colour = np.empty((*which.shape, 3), np.float32)
        rough = np.empty(which.shape, np.float32)
        for index in present.tolist():
            parcel = layout.parcels[index]
            inside = which == index
            pixels, strength = self._worked(parcel, u[inside], v[inside], patches[inside], lumps[inside])
            colour[inside], rough[inside] = pixels, strength
        self._roads(colour, rough, v, lumps)
        wet = np.clip(broad + 0.4 * patches, -1.5, 1.5)
        colour *= (1 - self.moisture * (0.5 + 0.5 * np.tanh(2 * wet)) + 0.035 * lumps)[..., None]
        return np.clip(colour, 0, 255).astype(np.uint8), rough

    def _parcels(self, u: Array, v: Array) -> Array:
        """The number of the parcel under each point."""
        layout = self.layout
        strip = np.clip(np.searchsorted(layout.strips, v) - 1, 0, len(layout.cuts) - 1)
        which = np.zeros(u.shape, np.int32)
        first = 0
        for number, cut in enumerate(layout.cuts):
            if (inside := strip == number).any():
                which[inside] = first + np.clip(np.searchsorted(cut, u[inside]) - 1, 0, len(cut) - 2)
            first += len(cut) - 1
        return which

    def _worked(
        self, parcel: Parcel, u: Array, v: Array, patches: Array, lumps: Array
    ) -> tuple[Array, Array]:
        """Colour (n, 3) and roughness (n,) of n points of one parcel, with its rows, ruts and grassy rim."""
        base = np.array(parcel.ground, np.float32)
        cos, sin = np.float32(np.cos(parcel.row_angle)), np.float32(np.sin(parcel.row_angle))
        across = v * cos - u * sin
        phase = (across - np.float32(parcel.row_phase)) * np.float32(2 * np.pi / parcel.row_spacing)
        tone = np.ones(u.shape, np.float32)
        grass = np.zeros(u.shape, np.float32)
        if parcel.kind == "crop":
            tone += 0.075 * np.cos(phase) + 0.03 * np.cos(5 * phase)
            if parcel.tramline:
                offset = np.abs(across - (row_index(parcel, across) * parcel.row_spacing + parcel.row_phase))
                track = row_index(parcel, across) % parcel.tramline == 0
                rut = track & (np.abs(offset - 0.2 * parcel.row_spacing) < 0.075 * parcel.row_spacing)
                tone -= 0.15 * rut
            grass = np.clip(1.5 * (patches + 0.5 * lumps - 1.9), 0, 0.7)
        elif parcel.kind == "stubble":
            tone += 0.07 * np.cos(6 * phase) + 0.04 * patches
        elif parcel.kind == "orchard":
            grass = np.clip(0.55 - 0.6 * np.cos(phase) + 0.3 * patches, 0, 1)
        elif parcel.kind == "meadow":
            grass = np.clip(0.5 + 0.35 * patches + 0.25 * lumps, 0, 1)
        else:
            tone += 0.05 * patches
            grass = np.clip(1.2 * (patches - 0.9), 0, 0.8)
        edge = np.minimum(np.minimum(u - parcel.u0, parcel.u1 - u), np.minimum(v - parcel.v0, parcel.v1 - v))
        rim = np.clip(1 - (edge + 3 * lumps) / (9 * self.layout.scale), 0, 0.85)
        grass = np.maximum(grass, rim)[:, None]
        green = np.array(GREEN, np.float32)
        colour = base * tone[:, None] * (1 - grass + grass * green * (1 + 0.1 * lumps[:, None]))
        return colour, GRIT[parcel.kind] * (1 + 0.4 * grass[:, 0])

    def _roads(self, colour: Array, rough: Array, v: Array, lumps: Array) -> None:
        """Dirt roads along the strips, with two ruts and a grassy middle."""
        for border, half in zip(self.layout.strips.tolist(), self.layout.roads.tolist(), strict=True):
            offset = np.abs(v - border)
            on = offset < half
            part = offset[on] / half
            rut = np.exp(-(((part - 0.52) / 0.16) ** 2))
            middle = np.clip(1 - part / 0.22, 0, 1) * np.clip(0.6 + 0.4 * lumps[on], 0, 1)
            tone = (0.93 + 0.1 * rut)[:, None]
            colour[on] = self.road * tone * (1 - middle[:, None] * (1 - np.array(GREEN, np.float32) * 0.9))
            rough[on] = 0.6
