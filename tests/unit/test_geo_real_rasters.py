"""Every raster of DATA_DIR/geo: read by windows as GDAL reads it, and on the map where its labels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline.geo.bands import choose_colours, to_rgb
from pipeline.geo.polygons import on_map, pixel_polygons
from pipeline.geo.windows import windows
from tests.rasters import blobs, opened


@pytest.fixture(scope="module")
def rasters(data_dir: Path) -> list[Path]:
    found = sorted((data_dir / "geo").rglob("*.tif"))
    if not found:
        pytest.skip("DATA_DIR holds no geo/")
    return found


def test_windows_put_together_are_the_raster(rasters: list[Path]) -> None:
    for path in rasters:
        raster = opened(path)
        colours = choose_colours(raster)
        with rasterio.open(path) as source:
            whole = source.read(list(colours.bands))
        height, width = whole.shape[1:]
        grid = windows(width, height, 200, 40)
        for window in grid:
            pixels = raster.read(colours.bands, window)
            rows, columns = slice(window.y, window.y + 200), slice(window.x, window.x + 200)
            part = whole[:, rows, columns]
            assert (pixels.samples[:, : part.shape[1], : part.shape[2]] == part).all(), path
            rgb = to_rgb(pixels, colours)
            assert rgb.shape == (200, 200, 3)
            assert not rgb[~pixels.valid].any()


def test_position_by_polygon_and_by_mask_agree(rasters: list[Path]) -> None:
    for path in rasters:
        raster = opened(path)
        georef = raster.header.georef
        assert georef is not None, path
        with rasterio.open(path) as source:
            assert rasterio.crs.CRS.from_string(georef.crs) == source.crs
            inverse = ~source.transform
        masks = blobs(20, raster.header.width, raster.header.height)
        found = on_map(masks, georef)
        for shape, pixels in zip(found.geometry, pixel_polygons(masks), strict=True):
            east, north = shapely.get_coordinates(shape).T
            x = inverse.a * east + inverse.b * north + inverse.c
            y = inverse.d * east + inverse.e * north + inverse.f
            apart = shapely.distance(
                shapely.points(x, y), shapely.multipoints(shapely.get_coordinates(pixels))
            )
            assert apart.max() < 0.01, path
        size = georef.metres(raster.header.width, raster.header.height)
        assert size == pytest.approx(abs(georef.transform[0]), rel=2e-3)  # the map's scale is that near 1


def test_the_spacenet_buildings_lie_where_their_pixels_say(data_dir: Path) -> None:
    folder = data_dir / "geo" / "spacenet-atlanta-chip"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    georef = opened(next(folder.glob("*.tif"))).header.georef
    assert georef is not None
    labels = json.loads(next(folder.glob("*.geojson")).read_text())["features"]
    ground = shapely.union_all(
        [shapely.make_valid(shapely.from_geojson(json.dumps(f["geometry"]))) for f in labels]
    )
    truth = json.loads((folder / "buildings_coco.json").read_text())["annotations"]
    pixels = shapely.union_all(
        [
            shapely.make_valid(shapely.polygons(np.reshape(ring, (-1, 2))))
            for annotation in truth
            for ring in annotation["segmentation"]
        ]
    )
    moved = shapely.transform(ground, lambda points: np.column_stack(georef.pixel(*points.T)))
    moved = shapely.intersection(moved, shapely.box(0, 0, 900, 900))
    assert (
        shapely.area(shapely.intersection(moved, pixels)) / shapely.area(shapely.union(moved, pixels)) > 0.99
    )


def test_the_neon_boxes_lie_where_their_pixels_say(data_dir: Path) -> None:
    folder = data_dir / "geo" / "neon-osbs-tile"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    georef = opened(folder / "OSBS_029.tif").header.georef
    assert georef is not None
    lines = (folder / "OSBS_029.csv").read_text().splitlines()
    names = lines[0].split(",")
    boxes = np.array(
        [
            [float(line.split(",")[names.index(side)]) for side in ("xmin", "ymin", "xmax", "ymax")]
            for line in lines[1:]
        ]
    )
    features = json.loads((folder / "OSBS_029_boxes.geojson").read_text())["features"]
    bounds = shapely.bounds([shapely.from_geojson(json.dumps(f["geometry"])) for f in features])
    west, north = georef.ground(boxes[:, 0], boxes[:, 1])
    east, south = georef.ground(boxes[:, 2], boxes[:, 3])
    assert (
        np.abs(np.sort(bounds, axis=0) - np.sort(np.column_stack([west, south, east, north]), axis=0)).max()
        < 0.001
    )
