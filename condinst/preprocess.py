"""From an image to the network's input: resize, pad, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from condinst.config import SIZE_DIVISOR, InputConfig, ShortestEdge
from condinst.transfer import Upload, constant


@dataclass(frozen=True)
class Prepared:
    """One image, resized, waiting for its batch."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB at the network's scale, before padding."""
    size: tuple[int, int]
    """(height, width) of the image itself."""
    norms: NDArray[np.float32] | None = None
    """Of a window: statistics for the head's norms, as `CondInst.statistics` gives them; None for its own."""

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) of the network input before padding."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of the network input; images of one batch share it."""
        return padded_size(self.resized)


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) brought up to the next multiple of 32."""
    height, width = ((edge + SIZE_DIVISOR - 1) // SIZE_DIVISOR * SIZE_DIVISOR for edge in size)
    return height, width


def resized_size(size: tuple[int, int], config: InputConfig) -> tuple[int, int]:
    """(height, width) an image of `size` is resized to; each edge int(x + 0.5), at least 1."""
    rule = config.resize
    scale = _shortest_edge_scale(size, rule) if isinstance(rule, ShortestEdge) else rule.scale
    height, width = (max(1, int(edge * scale + 0.5)) for edge in size)
    return height, width


def _shortest_edge_scale(size: tuple[int, int], rule: ShortestEdge) -> float:
    scale = rule.size / min(size)
    return min(scale, rule.longest / max(size)) if max(size) * scale > rule.longest else scale


def prepare(image: NDArray[np.uint8], config: InputConfig, size: tuple[int, int] | None = None) -> Prepared:
    """Resize an (H, W, 3) uint8 RGB image (Pillow's bilinear with antialiasing).

    `size` is the (height, width) of the image itself, where the pixels are those of a smaller version of it:
    the network's input then has the size that the image itself would give.

    Raises ValueError for another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"an image must be a uint8 RGB array of shape (height, width, 3), not {image.dtype} {image.shape}"
        )
    size = size or (image.shape[0], image.shape[1])
    height, width = resized_size(size, config)
    if (height, width) != image.shape[:2]:
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    return Prepared(np.require(image, requirements=["C", "W"]), size)


class Stacked(Sequence[Prepared]):
    """Images of one padded size, side by side in memory that a GPU copies by itself, and on their way there.

    Made by whoever hands a batch to the model, so that the model's thread has nothing to copy and the GPU
    nothing to wait for. Its images are views of that memory: who keeps them alone holds no pixels twice.
    """

    def __init__(self, batch: Sequence[Prepared], device: torch.device) -> None:
        """Pinned where `device` is a GPU. Raises ValueError for images of several padded sizes."""
        height, width = batch[0].padded
        shape = (len(batch), height, width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._items = [_put(item, place) for item, place in zip(batch, pixels.numpy(), strict=True)]
        self._pixels = Upload(pixels, device)

    def pixels(self) -> Tensor:
        """(N, H, W, 3) uint8 RGB on the device; what is beside an image is anything."""
        return self._pixels.take()

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Prepared: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prepared]: ...
    def __getitem__(self, place: int | slice) -> Prepared | Sequence[Prepared]:
        return self._items[place]


def to_batch(batch: Sequence[Prepared], config: InputConfig, device: torch.device) -> Tensor:
    """(N, 3, H, W) float32 normalised input of images that share one padded size; zeros are the padding.

    Channels last; `Stacked` images on the device that they were stacked for. Raises ValueError for images of
    several padded sizes.
    """
    stacked = batch if isinstance(batch, Stacked) else Stacked(batch, device)
    out = stacked.pixels()
    if config.channel_order == "bgr":
        out = out.flip(3)
    out = out.float().sub_(constant(config.mean, device)).div_(constant(config.std, device))
    for place, item in zip(out, stacked, strict=True):
        h, w = item.resized
        place[h:] = 0
        place[:h, w:] = 0
    return out.permute(0, 3, 1, 2)


def _put(item: Prepared, place: NDArray[np.uint8]) -> Prepared:
    """Copy an image to where a batch has room for it; returns it as it is there."""
    if item.padded != place.shape[:2]:
        raise ValueError(f"a batch must share one padded size: {item.padded} among {place.shape[:2]}")
    height, width = item.resized
    there = place[:height, :width]
    there[:] = item.pixels
    return replace(item, pixels=there)
