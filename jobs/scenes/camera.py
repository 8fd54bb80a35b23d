"""What the camera does to a painted scene: exposure, white balance, haze, focus, sensor noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from jobs.scenes.raster import Array, Noise

BAND = 512  # rows worked on at a time
LUMA = np.array([0.3, 0.59, 0.11], np.float32)


def photograph(rng: np.random.Generator, canvas: Array) -> Array:
    """Turn a painted uint8 (h, w, 3) canvas into a photograph of the same shape, perhaps in place."""
    height, width = canvas.shape[:2]
    clouds = Noise(rng, height, width, 420)
    gains = float(rng.uniform(0.88, 1.2)) * (1 + rng.normal(0, 0.035, 3)) * [1 + rng.normal(0, 0.04), 1, 1]
    vivid = np.float32(rng.uniform(0.55, 0.92))
    table = _tone_curve(float(rng.uniform(0.85, 1.2)), float(rng.uniform(0, 0.1)))
    grain = float(rng.uniform(0.6, 5.0))
    sigma = float(rng.choice([0.0, rng.uniform(0.3, 0.6), rng.uniform(0.6, 1.0)], p=[0.3, 0.45, 0.25]))
    if sigma:
        canvas = np.array(Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(sigma)))
    for start in range(0, height, BAND):
        stop = min(height, start + BAND)
        light = 1 + 0.06 * clouds.window(start, 0, stop - start, width, 4)
        light = np.repeat(np.repeat(light, 4, 0), 4, 1)[: stop - start, :width, None]
        band = canvas[start:stop] * (light * gains.astype(np.float32))
        grey = band @ LUMA
        band = grey[..., None] + vivid * (band - grey[..., None])
        speckle = rng.standard_normal(band.shape[:2], dtype=np.float32)[..., None]
        colour = rng.standard_normal((-(-band.shape[0] // 2), -(-width // 2), 3), dtype=np.float32)
        colour = np.repeat(np.repeat(colour, 2, 0), 2, 1)[: band.shape[0], :width]
        band += grain * speckle + 0.4 * grain * colour
        canvas[start:stop] = table[np.clip(band, 0, 255).astype(np.uint8)]
    return _compress(canvas, int(rng.integers(62, 97))) if rng.uniform() < 0.6 else canvas


def _tone_curve(gamma: float, haze: float) -> Array:
    """A lookup table of 256 uint8: gamma, then a veil of light."""
    levels = np.linspace(0, 1, 256) ** gamma
    return np.clip(255 * (haze * 0.8 + (1 - haze) * levels) + 0.5, 0, 255).astype(np.uint8)


def _compress(canvas: Array, quality: int) -> Array:
    """The picture as it comes back from a JPEG of this quality."""
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))
