"""Rasters and masks made for the tests of `pipeline.geo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window

from condinst import rle
from condinst.instances import RleMasks
from pipeline.geo.reader import Raster, open_raster
from pipeline.storage import Store

UTM = "EPSG:32635"
NORTH_UP = from_origin(386_200.0, 6_471_800.0, 0.05, 0.05)


def write_raster(
    path: Path,
    bands: NDArray[Any],
    mask: NDArray[Any] | None = None,
    transform: Affine = NORTH_UP,
    **profile: Any,
) -> Path:
    """A GeoTIFF of `bands` (count, height, width); a COG where `driver` says so."""
    count, height, width = bands.shape
    options = {"driver": "GTiff", "crs": UTM, **profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            width=width,
            height=height,
            count=count,
            dtype=bands.dtype,
            transform=transform,
            **options,
        ) as out,
    ):
        out.write(bands)
        if mask is not None:
            out.write_mask(mask)
    return path


def opened(path: Path) -> Raster:
    """The raster at `path`, read through a store as any other."""
    return open_raster(Store.open(str(path.parent)), path.name)


def terrain(bands: int, height: int, width: int, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Samples of every value up to 200, or up to 2000 for deeper types; never 0."""
    top = 200 if dtype == "uint8" else 2000
    return np.random.default_rng(seed).integers(1, top, (bands, height, width)).astype(dtype)


def rle_masks(pixels: Sequence[NDArray[np.bool_]], corners: Sequence[tuple[int, int]]) -> RleMasks:
    """Masks from their crops' pixels and the (x, y) of their top left."""
    return RleMasks(
        x=np.array([x for x, _ in corners], np.int32),
        y=np.array([y for _, y in corners], np.int32),
        height=np.array([crop.shape[0] for crop in pixels], np.int32),
        width=np.array([crop.shape[1] for crop in pixels], np.int32),
        area=np.array([crop.sum() for crop in pixels], np.int64),
        counts=[rle.encode(crop) for crop in pixels],
    )


def blobs(count: int, width: int, height: int, seed: int = 0) -> RleMasks:
    """Round masks of 4 to 40 pixels across, some with a hole, anywhere in a frame."""
    rng = np.random.default_rng(seed)
    pixels, corners = [], []
    for _ in range(count):
        side = int(rng.integers(4, min(40, width, height)))
        away = np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
        pixels.append((away <= 1) & (away > rng.choice([-1.0, 0.4])))
        corners.append((int(rng.integers(0, width - side)), int(rng.integers(0, height - side))))
    return rle_masks(pixels, corners)


def write_noise(path: Path, side: int, block: int) -> None:
    """A tiled GeoTIFF of noise at 10 cm without compression: its bytes are its pixels, three each."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 1024, side + 1024), np.uint8)
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": UTM,
        "transform": from_origin(386_200, 6_471_800, 0.1, 0.1), "interleave": "pixel",
        "tiled": True, "blockxsize": block, "blockysize": block,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, side, 1024):
            rows = min(1024, side - top)
            shifted = np.ascontiguousarray(noise[:, :rows, top // 32 : top // 32 + side])
            out.write(shifted, window=Window(0, top, side, rows))
