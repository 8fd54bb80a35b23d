"""From an image to the network's input."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condinst.config import FixedScale, InputConfig, ShortestEdge
from condinst.preprocess import Stacked, padded_size, prepare, resized_size, to_batch

EDGE = st.integers(1, 5000)


@given(height=EDGE, width=EDGE)
def test_padding_is_the_next_multiple_of_32_of_each_edge(height: int, width: int) -> None:
    padded = padded_size((height, width))
    assert all(p % 32 == 0 and 0 <= p - edge < 32 for p, edge in zip(padded, (height, width), strict=True))


@given(height=EDGE, width=EDGE)
def test_shortest_edge_rule(height: int, width: int) -> None:
    size = resized_size((height, width), InputConfig(resize=ShortestEdge(size=800, longest=1333)))
    assert max(size) <= 1333
    assert min(size) == 800 or max(size) == 1333 or min(size) == 1


def test_known_sizes() -> None:
    config = InputConfig()
    assert resized_size((480, 640), config) == (800, 1067)
    assert resized_size((640, 480), config) == (1067, 800)
    assert resized_size((1000, 3000), config) == (444, 1333)
    assert resized_size((100, 301), InputConfig(resize=FixedScale(scale=0.5))) == (50, 151)


def test_batch_is_normalised_and_padded_with_zeros() -> None:
    config = InputConfig(channel_order="bgr", mean=(1, 2, 3), std=(1, 2, 4), resize=FixedScale(scale=1.0))
    image = np.zeros((10, 40, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 11, 12, 13
    batch = to_batch([prepare(image, config)], config, torch.device("cpu"))
    assert batch.shape == (1, 3, 32, 64)
    assert batch[0, :, 0, 0].tolist() == [12.0, 5.0, 2.0]
    assert batch[0, :, 10:].abs().sum() == 0
    assert batch[0, :, :, 40:].abs().sum() == 0


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3)])
def test_wrong_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        prepare(np.zeros(shape, np.uint8), InputConfig())


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_batch_has_each_images_numbers_to_the_last_bit(order: Literal["rgb", "bgr"]) -> None:
    """As (pixels - mean) / std in float32, one image at a time; channels last, as convolutions are."""
    config = InputConfig(resize=FixedScale(scale=1.0), channel_order=order)
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (33, 65), (64, 70), (40, 96)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    found = to_batch([prepare(image, config) for image in images], config, torch.device("cpu"))
    assert found.is_contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    for one, image, (height, width) in zip(found, images, sizes, strict=True):
        pixels = torch.from_numpy(image if order == "rgb" else image[:, :, ::-1].copy()).float()
        want = torch.zeros(3, 64, 96)
        want[:, :height, :width] = ((pixels - mean) / std).permute(2, 0, 1)
        assert torch.equal(one, want)


def test_a_batch_of_two_padded_sizes_is_refused() -> None:
    config = InputConfig(resize=FixedScale())
    items = [prepare(np.zeros((edge, 32, 3), np.uint8), config) for edge in (32, 33)]
    with pytest.raises(ValueError, match="one padded size"):
        to_batch(items, config, torch.device("cpu"))


def test_a_stacked_batch_is_the_same_and_holds_no_pixels_twice() -> None:
    config, device = InputConfig(resize=FixedScale(scale=1.0)), torch.device("cpu")
    rng = np.random.default_rng(0)
    items = [prepare(rng.integers(0, 256, (h, 70, 3), np.uint8), config) for h in (64, 33, 50)]
    stacked = Stacked(items, device)
    assert torch.equal(to_batch(stacked, config, device), to_batch(items, config, device))
    for item, own in zip(items, stacked, strict=True):
        assert np.array_equal(item.pixels, own.pixels)
        assert (item.size, item.padded) == (own.size, own.padded)
        assert np.shares_memory(own.pixels, stacked.pixels().numpy())
    assert torch.equal(to_batch(stacked[1:], config, device), to_batch(items[1:], config, device))
