"""Every raster of `DATA_DIR/geo` as a tiled job: rows whose geometry is where mask and transform say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline.geo.georef import transformer
from pipeline.manifest import InputSource
from pipeline.tiled.settings import Tiling
from pipeline.verify import Outcome, verify
from tests.tiled import tiled_job
from tests.tiny import tiny_weights


@pytest.fixture(scope="module")
def folder(data_dir: Path) -> Path:
    folder = data_dir / "geo"
    if not list(folder.rglob("*.tif")):
        pytest.skip(f"{folder} has no rasters")
    return folder


def test_pixels_lie_where_geometries_do_whatever_the_raster(folder: Path, tmp_path: Path) -> None:
    source = InputSource(str(folder), include=("*.tif",))
    job = tiled_job(
        source, tmp_path / "out", tiny_weights(tmp_path), 100, Tiling(size=512, overlap=64), batch_images=1
    )
    job.do()
    assert verify(job.store).outcome is Outcome.GOOD
    images = job.run.images().to_pylist()
    assert len(images) == len(list(folder.rglob("*.tif")))
    placed = {row["image_id"]: row for row in images if row["crs"]}
    assert all(row["status"] in ("ok", "empty") for row in placed.values())
    crs = job.run.crs
    assert crs is not None
    systems = {row["crs"] for row in placed.values()}
    assert crs == ("OGC:CRS84" if len(systems) > 1 else systems.pop())
    checked = 0
    for row in job.run.instances().to_pylist():
        image = placed.get(row["image_id"])
        if image is None:
            assert row["geometry"] is None
            continue
        shape = shapely.from_wkb(row["geometry"])
        assert shape.is_valid
        back = transformer(crs, image["crs"])
        transform = ~rasterio.Affine(*image["transform"])

        def to_pixels(points: np.ndarray, back: object = back, transform: object = transform) -> np.ndarray:
            east, north = back.transform(*points.T)  # type: ignore[attr-defined]
            return np.array([transform @ place for place in zip(east, north, strict=True)])  # type: ignore[operator]

        left, top, right, bottom = shapely.transform(shape, to_pixels).bounds
        mask = row["mask"]
        expected = (mask["x"], mask["y"], mask["x"] + mask["width"], mask["y"] + mask["height"])
        assert (left, top, right, bottom) == pytest.approx(expected, abs=0.01)
        checked += 1
    assert checked > 10
