"""A whole job in miniature: a model of a few thousand parameters that finds things, and images for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from condinst.config import (
    BackboneConfig,
    DetectConfig,
    FixedScale,
    FpnConfig,
    HeadConfig,
    InputConfig,
    MaskConfig,
    ModelConfig,
)
from condinst.model import CondInst
from condinst.weights import save

CLASSES = ("plant", "stone", "roof")
INSTANCES = 12
"""Of an image, at most: a report draws them all, large on pictures that are small."""


def tiny_model(seed: int = 0) -> CondInst:
    """A real CondInst of random weights, spread so that what it finds depends on the image."""
    torch.manual_seed(seed)
    config = ModelConfig(
        classes=CLASSES,
        backbone=BackboneConfig(depth=18, width=8, stem_channels=8),
        fpn=FpnConfig(channels=16),
        head=HeadConfig(num_convs=1, groups=4),
        mask=MaskConfig(branch_channels=8, branch_convs=1, features=4, head_channels=4),
        input=InputConfig(resize=FixedScale(scale=1.0)),
        detect=DetectConfig(max_instances=INSTANCES),
    )
    model = CondInst(config)
    for name in ("logits", "quality", "controller", "distances"):
        torch.nn.init.normal_(getattr(model.head, name).weight, std=0.5)
    torch.nn.init.constant_(model.head.logits.bias, -2.0)
    torch.nn.init.constant_(model.head.distances.bias, 2.0)
    return model.eval()


def tiny_weights(folder: Path, seed: int = 0) -> Path:
    """The model as a weights file."""
    path = folder / f"tiny-{seed}.safetensors"
    save(tiny_model(seed), path)
    return path


def picture(seed: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Blobs on soil, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    image = rng.normal((110, 90, 70), 12, (height, width, 3))
    ys, xs = np.mgrid[:height, :width]
    for _ in range(6):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(6, 24)
        image[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return image.clip(0, 255).astype(np.uint8)


def encoded(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def pictures(folder: Path, count: int = 12) -> Path:
    """Images of three sizes in two sub-folders; among them one that is cut off and one of no bytes."""
    sizes = [(96, 128), (64, 64), (80, 160)]
    for number in range(count):
        path = folder / ("a" if number % 2 else "b") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, *sizes[number % 3])))
    (folder / "a" / "cut.jpg").write_bytes(encoded(picture(0), "JPEG")[:900])
    (folder / "b" / "nothing.png").write_bytes(b"")
    return folder
