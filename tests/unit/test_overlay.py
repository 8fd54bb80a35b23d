"""An overlay shows every instance where it is, and nothing else changes much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from condinst import Instances
from condinst.instances import RleMasks
from jobs.overlay import LONGEST, SHORTEST, canvas_scale, colour_of, draw


def instances(crops: list[tuple[int, int, NDArray[np.uint8]]], classes: list[int] | None = None) -> Instances:
    """Instances from (x, y, crop) masks, scores falling."""
    boxes = [[x, y, x + crop.shape[1], y + crop.shape[0]] for x, y, crop in crops]
    masks = RleMasks(
        x=np.array([x for x, _, _ in crops], dtype=np.int32),
        y=np.array([y for _, y, _ in crops], dtype=np.int32),
        height=np.array([crop.shape[0] for *_, crop in crops], dtype=np.int32),
        width=np.array([crop.shape[1] for *_, crop in crops], dtype=np.int32),
        area=np.array([crop.sum() for *_, crop in crops], dtype=np.int64),
        counts=[coco.encode(np.asfortranarray(crop))["counts"] for *_, crop in crops],
    )
    return Instances(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, len(crops), dtype=np.float32),
        np.array(classes or [0] * len(crops), dtype=np.int64),
        masks,
    )


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 120, dtype=np.uint8)


def changed(image: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of the picture differ visibly from the image's flat grey."""
    result: NDArray[np.bool_] = np.abs(picture.astype(int) - int(image[0, 0, 0])).max(axis=2) > 12
    return result


def test_without_instances_the_image_stays() -> None:
    image = np.random.default_rng(1).integers(0, 255, (1000, 1200, 3), dtype=np.uint8)
    assert np.array_equal(draw(image, instances([]), ["plant"]), image)


def test_the_image_itself_is_not_painted_on() -> None:
    image = grey(1000, 1000)
    draw(image, instances([(100, 100, np.ones((300, 300), np.uint8))]), ["plant"])
    assert (image == 120).all()


def test_a_mask_is_drawn_where_it_is_and_only_there() -> None:
    image = grey(1000, 1000)
    crop = np.zeros((200, 300), dtype=np.uint8)
    crop[:, :100] = 1
    crop[150:, :] = 1
    shown = changed(image, draw(image, instances([(400, 500, crop)]), [""]))
    inside = np.zeros((1000, 1000), dtype=bool)
    inside[500:700, 400:700] = crop.astype(bool)
    near = np.zeros_like(inside)
    near[490:710, 390:710] = True
    hole = np.zeros_like(inside)
    hole[510:640, 510:690] = True
    assert shown[inside].mean() > 0.99
    assert not shown[~near].any()
    assert shown[hole].mean() < 0.2  # the label may reach into it


def test_the_rim_is_brighter_than_the_fill() -> None:
    image = grey(1000, 1000)
    picture = draw(image, instances([(300, 300, np.ones((400, 400), np.uint8))]), ["plant"]).astype(int)
    assert picture[300:302, 400].sum(axis=1).max() > picture[350, 400].sum() + 60


def test_neighbours_and_classes_differ_in_colour() -> None:
    colours = [colour_of(label, number) for label in range(3) for number in range(30)]
    assert len(set(colours)) == len(colours)
    same = [np.subtract(colour_of(0, n), colour_of(0, n + 1)) for n in range(20)]
    assert min(np.abs(difference).max() for difference in same) > 25


def test_a_mask_without_pixels_and_one_over_the_whole_image() -> None:
    image = grey(40, 30)
    empty = np.zeros((1, 1), dtype=np.uint8)
    picture = draw(image, instances([(29, 39, empty), (0, 0, np.ones((40, 30), np.uint8))]), ["plant"])
    assert changed(image, picture).mean() > 0.99


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (256, 256), (600, 899), (901, 3), (9000, 5000), (3, 40000)]
)
def test_a_picture_suits_a_screen(height: int, width: int) -> None:
    longest = max(height, width) * canvas_scale(height, width)
    assert longest <= LONGEST + 1
    assert longest >= min(SHORTEST, 8 * max(height, width))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_instances_can_be_drawn(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    crops = []
    for _ in range(data.draw(st.integers(0, 4))):
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        shape = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
        seed = data.draw(st.integers(0, 2**32 - 1))
        crops.append((x, y, np.random.default_rng(seed).integers(0, 2, shape, dtype=np.uint8)))
    picture = draw(grey(height, width), instances(crops), ["a rather long name of a class", "b"])
    scale = canvas_scale(height, width)
    assert picture.shape == (round(height * scale), round(width * scale), 3)
    assert picture.dtype == np.uint8
