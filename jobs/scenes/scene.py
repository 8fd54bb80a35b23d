"""A scene: the picture of a field from above and the exact visible mask of every labelled thing in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from jobs.scenes.camera import photograph
from jobs.scenes.clutter import draw_clutter
from jobs.scenes.ground import paint_ground
from jobs.scenes.layout import Layout, draw_layout
from jobs.scenes.plants import plant
from jobs.scenes.raster import Array, Light, Sprite, overlap, shadow_mask
from jobs.scenes.spots import Spot, draw_spots
from jobs.scenes.structures import roof, vehicle
from jobs.scenes.trees import tree

CATEGORIES = ("plant", "tree", "roof", "vehicle")
MIN_AREA = 60  # visible pixels below which a thing is left out of the scene
MIN_VISIBLE = 0.25  # visible share of its own area, likewise
SHADE = np.array([0.5, 0.54, 0.62], np.float32)  # light left in full shadow; the sky's is blue


@dataclass(frozen=True)
class SceneObject:
    """One labelled thing: ``mask`` bool (h, w) of its visible pixels, a crop at (x, y) of the image."""

    category: str
    x: int
    y: int
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class Scene:
    """``image`` uint8 (height, width, 3) RGB; ``labels`` int32 (height, width), k + 1 on ``objects[k]``."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    objects: list[SceneObject]


def render(seed: int, width: int = 512, height: int = 512) -> Scene:
    """Draw the scene of this seed, ``width`` x ``height`` pixels.

    The same seed and size give the same bytes, under the same versions of numpy and Pillow and on one kind
    of processor. Objects are a few tens of pixels across whatever the size of the canvas; a larger one shows
    more fields. Masks are modal: they hold what is visible, do not overlap, and lie inside the image.
    Everything of a category of ``CATEGORIES`` that can be seen is in ``objects``.

    Raises ValueError if the seed is negative or a side is below 64 pixels.
    """
    if seed < 0 or min(width, height) < 64:
        raise ValueError(f"render needs seed >= 0 and sides >= 64, got seed {seed}, size {width} x {height}")
    plan, things, ground, strewn, lens = np.random.default_rng(seed).spawn(5)
    layout = draw_layout(plan, width, height)
    sprites = [_draw(things, spot, layout.light) for spot in draw_spots(plan, layout)]
    sprites, labels = _settle(sprites, (height, width))
    canvas = paint_ground(ground, layout)
    _paint(canvas, draw_clutter(strewn, layout), layout.light, soft=0.5)
    low = [sprite for sprite in sprites if sprite.category in ("plant", "vehicle")]
    _paint(canvas, low, layout.light, soft=0.8)
    high = [sprite for sprite in sprites if sprite.category in ("roof", "tree")]
    _cast(canvas, high, layout)
    _paint(canvas, high, None)
    return Scene(photograph(lens, canvas), labels, _objects(sprites, labels))


def _draw(rng: np.random.Generator, spot: Spot, light: Light) -> Sprite:
    if spot.what == "plant":
        return plant(rng, spot.parcel.species, spot.x, spot.y, spot.size, light)
    if spot.what == "tree":
        return tree(rng, spot.parcel.crown, spot.x, spot.y, spot.size, light)
    if spot.what == "roof":
        return roof(rng, spot.x, spot.y, spot.size, spot.width, spot.angle, light)
    return vehicle(rng, spot.x, spot.y, spot.size, spot.angle, spot.on_field)


def _settle(sprites: list[Sprite], shape: tuple[int, int]) -> tuple[list[Sprite], NDArray[np.int32]]:
    """Leave out what would hardly be seen; return the rest with its label map, int32 of this shape."""
    labels = _label(sprites, shape)
    seen = np.bincount(labels.ravel(), minlength=len(sprites) + 1)[1:]
    whole = np.array([np.count_nonzero(sprite.alpha > 127) for sprite in sprites], np.int64)
    stays = (seen >= MIN_AREA) & (seen >= MIN_VISIBLE * whole)
    kept = [sprite for sprite, stay in zip(sprites, stays, strict=True) if stay]
    # Whatever lay under what is left out only becomes more visible, so once is enough.
    return kept, _label(kept, shape)


def _label(sprites: list[Sprite], shape: tuple[int, int]) -> NDArray[np.int32]:
    labels = np.zeros(shape, np.int32)
    for number, sprite in enumerate(sprites, start=1):
        if meet := overlap(sprite.left, sprite.top, sprite.alpha.shape, shape):
            inside, crop = meet
            labels[inside][sprite.alpha[crop] > 127] = number
    return labels


def _objects(sprites: list[Sprite], labels: NDArray[np.int32]) -> list[SceneObject]:
    objects = []
    for number, sprite in enumerate(sprites, start=1):
        meet = overlap(sprite.left, sprite.top, sprite.alpha.shape, labels.shape)
        assert meet is not None
        assert sprite.category is not None
        inside, _ = meet
        seen = labels[inside] == number
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        y, x = inside[0].start + int(rows[0]), inside[1].start + int(columns[0])
        tight = seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
        objects.append(SceneObject(sprite.category, x, y, tight))
    return objects


def _paint(canvas: Array, sprites: list[Sprite], light: Light | None, soft: float = 0.0) -> None:
    """Lay sprites over the canvas in turn, each upon its own shadow if a light is given."""
    for sprite in sprites:
        if light is not None and sprite.height:
            left, top, shadow = _soft_shadow(sprite, light, soft)
            if meet := overlap(left, top, shadow.shape, canvas.shape[:2]):
                canvas[meet[0]] = canvas[meet[0]] * _dimmed(shadow[meet[1]])
        if meet := overlap(sprite.left, sprite.top, sprite.alpha.shape, canvas.shape[:2]):
            inside, crop = meet
            weight = sprite.alpha[crop][..., None].astype(np.float32) / 255
            under = canvas[inside].astype(np.float32)
            canvas[inside] = under + weight * (sprite.rgb[crop] - under) + 0.5


def _soft_shadow(sprite: Sprite, light: Light, blur: float) -> tuple[int, int, Array]:
    left, top, swept = shadow_mask(sprite, light)
    pad = 2
    image = Image.fromarray(np.pad(swept, pad)).filter(ImageFilter.BoxBlur(blur))
    return left - pad, top - pad, np.asarray(image)


def _dimmed(shadow: Array) -> Array:
    """The share of light left, float32 (h, w, 3), under a shadow of uint8 (h, w)."""
    return 1 - (shadow[..., None].astype(np.float32) / 255) * (1 - SHADE)


def _cast(canvas: Array, sprites: list[Sprite], layout: Layout) -> None:
    """Darken the canvas under all shadows at once, so that two shadows on one spot are no darker than one."""
    height, width = canvas.shape[:2]
    dark = np.zeros((height, width), np.uint8)
    for sprite in sprites:
        left, top, shadow = _soft_shadow(sprite, layout.light, 1.2)
        if meet := overlap(left, top, shadow.shape, dark.shape):
            np.maximum(dark[meet[0]], shadow[meet[1]], out=dark[meet[0]])
    for start in range(0, height, 512):
        band = slice(start, start + 512)
        canvas[band] = canvas[band] * _dimmed(dark[band])
