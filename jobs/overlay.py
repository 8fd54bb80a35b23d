"""Draw instances over their image: the first thing anyone sees of a model.

Fills are translucent and outlines crisp; a class is a family of hues, its instances differ within it. Small
images are enlarged and huge ones shrunk, so that the picture is always good to look at.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from pycocotools import mask as coco

if TYPE_CHECKING:
    from condinst import Instances

Pixels = NDArray[np.uint8]
Coverage = Image.Image
"""How much of each pixel is covered, 0 to 255, as an image of mode L."""
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SHORTEST, LONGEST = 900, 2400
"""The picture's longest edge in pixels, at least and at most."""
GOLDEN, PLASTIC = 0.618034, 0.754878
"""Steps that spread any number of hues and of shades evenly over 0..1."""


@dataclass(frozen=True)
class _Shape:
    """One mask on the canvas: where its window begins, and how much of each pixel its parts cover."""

    corner: tuple[int, int]
    fill: Coverage
    rim: Coverage
    halo: Coverage


def draw(
    image: Pixels,
    instances: Instances,
    classes: Sequence[str],
    shortest: int = SHORTEST,
    longest: int = LONGEST,
) -> Pixels:
    """The (H, W, 3) uint8 RGB image with its instances, as an RGB array of a size that suits a screen.

    `shortest` and `longest` are what the picture's longest edge may measure, in pixels.
    """
    height, width = image.shape[:2]
    scale = canvas_scale(height, width, shortest, longest)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    source = Image.fromarray(image)
    picture = source.resize(size, Image.Resampling.LANCZOS) if scale != 1 else source.copy()
    colours = [colour_of(int(label), number) for number, label in enumerate(instances.classes)]
    for number in np.argsort(-instances.masks.area, kind="stable"):
        if instances.masks.area[number] > 0:
            shape = _shape(instances, int(number), scale, size)
            _paint(picture, shape, colours[number])
    _label(picture, instances, classes, colours, scale)
    return np.asarray(picture)


def canvas_scale(height: int, width: int, shortest: int = SHORTEST, longest: int = LONGEST) -> float:
    """Pixels of the picture for one of the image: small images grow by whole steps, huge ones shrink."""
    edge = max(height, width)
    if edge > longest:
        return longest / edge
    return float(min(8, -(-shortest // edge), longest // edge)) if edge < shortest else 1.0


def colour_of(label: int, number: int) -> Colour:
    """Colour of one instance: the class chooses the hue, the instance a shade near it."""
    hue = 0.55 + label * GOLDEN + 0.16 * ((number * GOLDEN) % 1.0 - 0.5)
    lightness = 0.45 + 0.2 * ((number * PLASTIC) % 1.0)
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _shape(instances: Instances, number: int, scale: float, size: tuple[int, int]) -> _Shape:
    """The mask resampled to the canvas, with a margin for its rim and halo."""
    masks = instances.masks
    x, y = int(masks.x[number]), int(masks.y[number])
    height, width = int(masks.height[number]), int(masks.width[number])
    line = max(1, round(max(size) / 700))
    margin = 2 * line + 2
    left, top = max(0, int(x * scale) - margin), max(0, int(y * scale) - margin)
    right = min(size[0], int(np.ceil((x + width) * scale)) + margin)
    bottom = min(size[1], int(np.ceil((y + height) * scale)) + margin)
    crop = coco.decode({"size": [height, width], "counts": masks.counts[number]})
    pad = int(np.ceil((margin + 1) / scale)) + 1
    padded = Image.fromarray(np.pad(crop * np.uint8(255), pad))
    edges = (left / scale - x, top / scale - y, right / scale - x, bottom / scale - y)
    box = (edges[0] + pad, edges[1] + pad, edges[2] + pad, edges[3] + pad)
    resized = padded.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)
    if scale > 1:
        resized = resized.filter(ImageFilter.BoxBlur(0.45 * scale))
    inside = np.asarray(resized) >= 128
    fill = _soft(inside)
    return _Shape(
        (left, top),
        fill,
        rim=ImageChops.subtract(fill, _soft(~_grown(~inside, line))),
        halo=ImageChops.subtract(_soft(_grown(inside, line)), fill),
    )


def _grown(inside: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """All that lies within so many pixels, rows or columns, of what is inside."""
    height, width = inside.shape
    padded = np.pad(inside, by)
    tall = np.logical_or.reduce([padded[shift : shift + height] for shift in range(2 * by + 1)])
    grown: NDArray[np.bool_] = np.logical_or.reduce(
        [tall[:, shift : shift + width] for shift in range(2 * by + 1)]
    )
    return grown


def _soft(inside: NDArray[np.bool_]) -> Coverage:
    """Coverage with the stairs of its outline smoothed."""
    return Image.fromarray(inside * np.uint8(255)).filter(ImageFilter.BoxBlur(0.5))


def _paint(picture: Image.Image, shape: _Shape, colour: Colour) -> None:
    """Blend a dark halo, the fill and a bright rim into the picture in place."""
    red, green, blue = (round(0.6 * channel + 0.4 * 255) for channel in colour)
    for part, tint, share in (
        (shape.halo, (0, 0, 0), 0.45),
        (shape.fill, colour, 0.4),
        (shape.rim, (red, green, blue), 0.95),
    ):
        picture.paste(tint, shape.corner, part.point([round(share * covered) for covered in range(256)]))


def _label(
    picture: Image.Image,
    instances: Instances,
    classes: Sequence[str],
    colours: Sequence[Colour],
    scale: float,
) -> None:
    """Write class and score, or the score alone, on each box that has room for it, best first."""
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(size=max(11.0, min(18.0, max(picture.size) / 85)))
    taken = np.zeros((picture.height, picture.width), dtype=bool)
    for number, (label, score) in enumerate(zip(instances.classes, instances.scores, strict=True)):
        box = instances.boxes[number] * scale
        for text in (f"{classes[int(label)]} {score:.2f}", f"{score:.2f}"):
            left, top, right, bottom = _text_box(font, text, box)
            spot = (slice(top, bottom), slice(left, right))
            room = 0.9 * (box[2] - box[0]) >= right - left and 0.6 * (box[3] - box[1]) >= bottom - top
            if room and not taken[spot].any():
                taken[spot] = True
                _write(pen, font, (left, top, right, bottom), text, colours[number])
                break


def _text_box(font: Font, text: str, box: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a text with some air, in the middle of an instance's box."""
    x0, y0, x1, y1 = font.getbbox(text)
    width, height = round(x1 - x0) + 10, round(y1 - y0) + 8
    left, top = (
        round(float(a + b - edge) / 2) for a, b, edge in zip(box[:2], box[2:], (width, height), strict=True)
    )
    return left, top, left + width, top + height


def _write(
    pen: ImageDraw.ImageDraw, font: Font, box: tuple[int, int, int, int], text: str, colour: Colour
) -> None:
    red, green, blue = (channel // 6 for channel in colour)
    pen.rounded_rectangle(box, radius=(box[3] - box[1]) // 3, fill=(red, green, blue, 175))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    pen.text(middle, text, font=font, fill=(255, 255, 255), anchor="mm")
