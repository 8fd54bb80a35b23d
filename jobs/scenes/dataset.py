"""Scenes on disk: a folder of JPEGs, or one large georeferenced GeoTIFF, each with its truth as COCO json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window

from jobs.scenes.scene import CATEGORIES, Scene, SceneObject, render

BAND = 512  # rows written at a time, and the side of a GeoTIFF's blocks


def write_dataset(folder: Path, seeds: Iterable[int], size: int | tuple[int, int], quality: int = 92) -> Path:
    """Write one scene a seed as ``images/scene-<seed>.jpg`` and the truth as ``truth.json``; return its path.

    ``size`` is the side of the square scenes, or (width, height), in pixels; ``quality`` is the JPEG's. In
    the truth an image's id is its seed and its ``file_name`` is relative to ``images/``; ``segmentation`` is
    COCO's compressed RLE of the whole frame. Raises ValueError if a seed comes twice.
    """
    width, height = (size, size) if isinstance(size, int) else size
    seeds = list(seeds)
    if len(set(seeds)) != len(seeds):
        raise ValueError("write_dataset needs seeds that differ: an image's id and name come from its seed")
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    truth = _Truth()
    for seed in seeds:
        scene = render(seed, width, height)
        name = f"scene-{seed:06d}.jpg"
        Image.fromarray(scene.image).save(images / name, quality=quality)
        truth.add(scene, seed, name)
    return truth.write(folder / "truth.json")


def write_mosaic(
    path: Path,
    seed: int,
    width: int,
    height: int,
    *,
    crs: str = "EPSG:32635",
    origin: tuple[float, float] = (386_200.0, 6_471_800.0),
    pixel: float = 0.05,
    compress: str = "jpeg",
) -> Path:
    """Write one scene as a GeoTIFF, its truth beside it as ``<stem>.truth.json``; return the latter's path.

    ``origin`` is the top left corner's (easting, northing) and ``pixel`` the side of a pixel, both in the
    units of ``crs`` (metres). The file is tiled 512 x 512 with overviews; ``compress`` is "jpeg" (lossy,
    small) or "deflate". The truth is as in ``write_dataset``, with image id 1 and the GeoTIFF's name as
    ``file_name``. Raises ValueError for another ``compress``, before anything is drawn.
    """
    compression = _compression(compress)
    scene = render(seed, width, height)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8",
        "crs": crs, "transform": from_origin(*origin, pixel, pixel),
        "tiled": True, "blockxsize": BAND, "blockysize": BAND,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile, **compression) as raster:
        for start in range(0, height, BAND):
            band = scene.image[start : start + BAND]
            window = Window(0, start, width, len(band))
            raster.write(np.ascontiguousarray(band.transpose(2, 0, 1)), window=window)
        levels = [2**power for power in range(1, 8) if max(width, height) >> power >= BAND // 2]
        raster.build_overviews(levels, Resampling.average)
    truth = _Truth()
    truth.add(scene, 1, path.name)
    return truth.write(path.with_suffix(".truth.json"))


def _compression(compress: str) -> dict[str, Any]:
    if compress == "jpeg":
        return {"compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr", "interleave": "pixel"}
    if compress == "deflate":
        return {"compress": "deflate", "predictor": 2, "interleave": "pixel"}
    raise ValueError(f"compress must be 'jpeg' or 'deflate', not {compress!r}")


class _Truth:
    """A COCO document under construction."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, scene: Scene, image_id: int, name: str) -> None:
        """Add one scene; annotation ids count from 1, because COCO's evaluation takes 0 for "none"."""
        height, width = scene.labels.shape
        self.images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for thing in scene.objects:
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES.index(thing.category) + 1,
                    "segmentation": full_frame_rle(thing, height, width),
                    "bbox": [thing.x, thing.y, thing.mask.shape[1], thing.mask.shape[0]],
                    "area": thing.area,
                    "iscrowd": 0,
                }
            )

    def write(self, path: Path) -> Path:
        categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)]
        document = {"images": self.images, "annotations": self.annotations, "categories": categories}
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n")
        return path


def full_frame_rle(thing: SceneObject, height: int, width: int) -> dict[str, Any]:
    """The object's mask as COCO compressed RLE of a height x width frame, without ever building the frame.

    Returns ``{"size": [height, width], "counts": str}``, as pycocotools reads it from json.
    """
    starts, stops = _runs(thing, height)
    edges = np.stack([starts, stops], 1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    if counts[-1] == 0:  # as COCO's own encoder: no empty run at the end
        counts = counts[:-1]
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _runs(thing: SceneObject, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and stops of the mask's runs in the column-major order of a frame of this height."""
    rows, columns = thing.mask.shape
    padded = np.zeros((columns, rows + 2), np.int8)
    padded[:, 1:-1] = thing.mask.T
    change = np.diff(padded, axis=1)
    column, row = np.nonzero(change == 1)
    starts = (thing.x + column) * height + thing.y + row
    column, row = np.nonzero(change == -1)
    stops = (thing.x + column) * height + thing.y + row
    # A run that leaves a column at its foot goes on at the head of the next one.
    joined = stops[:-1] == starts[1:]
    return starts[np.append(True, ~joined)], stops[np.append(~joined, True)]
