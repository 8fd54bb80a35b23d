"""The scene generator: the truth is exact, the bytes repeat."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from jobs.scenes import CATEGORIES, SceneObject, render, write_dataset, write_mosaic
from jobs.scenes.dataset import full_frame_rle
from jobs.scenes.scene import MIN_AREA


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, 320, 256) for seed in range(6)]


def test_same_seed_same_bytes(scenes):
    again = render(3, 320, 256)
    assert again.image.tobytes() == scenes[3].image.tobytes()
    assert again.labels.tobytes() == scenes[3].labels.tobytes()


def test_different_seeds_differ(scenes):
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_image_and_labels_have_the_asked_size(scenes):
    for scene in scenes:
        assert scene.image.shape == (256, 320, 3)
        assert scene.image.dtype == np.uint8
        assert scene.labels.shape == (256, 320)


def test_masks_are_disjoint_and_cover_the_label_map(scenes):
    for scene in scenes:
        count = np.zeros(scene.labels.shape, np.int32)
        for number, thing in enumerate(scene.objects, start=1):
            height, width = thing.mask.shape
            assert thing.x >= 0
            assert thing.y >= 0
            count[thing.y : thing.y + height, thing.x : thing.x + width] += (
                thing.mask
            )  # fails if it sticks out
            assert thing.area == np.count_nonzero(scene.labels == number)
        assert count.max() <= 1
        assert np.array_equal(count > 0, scene.labels > 0)


def test_objects_are_visible_tight_and_of_a_known_category(scenes):
    assert all(scene.objects for scene in scenes)
    for thing in (thing for scene in scenes for thing in scene.objects):
        assert thing.category in CATEGORIES
        assert thing.area >= MIN_AREA
        assert thing.mask[[0, -1]].any(1).all()
        assert thing.mask[:, [0, -1]].any(0).all()


def test_every_category_occurs():
    seen = {thing.category for seed in range(8) for thing in render(seed, 384, 384).objects}
    assert seen == set(CATEGORIES)


def test_objects_keep_their_size_on_a_larger_canvas():
    def typical(side: int, seeds: range) -> float:
        return float(np.median([thing.area for seed in seeds for thing in render(seed, side, side).objects]))

    assert 0.4 < typical(768, range(2)) / typical(320, range(10)) < 2.5


@pytest.mark.parametrize(("seed", "width", "height"), [(-1, 256, 256), (0, 63, 256), (0, 256, 0)])
def test_impossible_scenes_are_refused(seed, width, height):
    with pytest.raises(ValueError, match="render needs"):
        render(seed, width, height)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_full_frame_rle_equals_encoding_the_frame(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    y, x = data.draw(st.integers(0, height - rows)), data.draw(st.integers(0, width - columns))
    bits = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns).filter(any))
    mask = np.array(bits).reshape(rows, columns)
    frame = np.zeros((height, width), np.uint8, order="F")
    frame[y : y + rows, x : x + columns] = mask
    rle = full_frame_rle(SceneObject("plant", x, y, mask), height, width)
    assert rle["counts"].encode() == coco_mask.encode(frame)["counts"]


def test_dataset_truth_loads_in_pycocotools(tmp_path: Path):
    path = write_dataset(tmp_path, [7, 2], (300, 200))
    coco = COCO(str(path))
    assert sorted(file.name for file in (tmp_path / "images").iterdir()) == [
        "scene-000002.jpg",
        "scene-000007.jpg",
    ]
    assert [category["name"] for category in coco.loadCats([1, 2, 3, 4])] == list(CATEGORIES)
    assert {image["file_name"] for image in coco.imgs.values()} == {"scene-000002.jpg", "scene-000007.jpg"}
    scene = render(7, 300, 200)
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert len(annotations) == len(scene.objects)
    for number, annotation in enumerate(annotations, start=1):
        decoded = coco.annToMask(annotation)
        assert np.array_equal(decoded, scene.labels == number)
        assert annotation["area"] == decoded.sum()
        assert annotation["bbox"] == list(coco_mask.toBbox(annotation["segmentation"]))


def test_dataset_is_the_same_each_time(tmp_path: Path):
    first, second = (write_dataset(tmp_path / name, [5], 192) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    name = "images/scene-000005.jpg"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_dataset_refuses_a_repeated_seed(tmp_path: Path):
    with pytest.raises(ValueError, match="seeds that differ"):
        write_dataset(tmp_path, [1, 1], 192)


@pytest.mark.parametrize("compress", ["jpeg", "deflate"])
def test_mosaic_is_a_georeferenced_tiled_raster(tmp_path: Path, compress: str):
    path = tmp_path / "field.tif"
    truth = write_mosaic(path, 4, 700, 600, pixel=0.1, origin=(500_000.0, 6_000_000.0), compress=compress)
    scene = render(4, 700, 600)
    with rasterio.open(path) as raster:
        assert raster.crs.to_epsg() == 32635
        assert raster.xy(20, 10, offset="ul") == pytest.approx((500_001.0, 5_999_998.0))
        assert (raster.width, raster.height, raster.count) == (700, 600, 3)
        assert raster.block_shapes[0] == (512, 512)
        assert raster.overviews(1)
        pixels = raster.read().transpose(1, 2, 0)
    difference = np.abs(pixels.astype(int) - scene.image)
    assert difference.max() == 0 if compress == "deflate" else difference.mean() < 6
    document = json.loads(truth.read_text())
    assert document["images"] == [{"id": 1, "file_name": "field.tif", "width": 700, "height": 600}]
    assert sum(annotation["area"] for annotation in document["annotations"]) == np.count_nonzero(scene.labels)


def test_mosaic_refuses_an_unknown_compression(tmp_path: Path):
    with pytest.raises(ValueError, match="jpeg"):
        write_mosaic(tmp_path / "field.tif", 0, 128, 128, compress="zip")
