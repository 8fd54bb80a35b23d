"""Draws the pictures of `docs/tiling.md`: labels and stitched instances over rasters, by coordinates alone.

    .venv/bin/python -m tests.bench.maps /work/shared/data docs/images

Everything drawn has been on the map: pixels come from this project's reader, outlines from coordinates on the
ground, brought into pixels by the transform that plans keep and `images` rows tell. Of the labelled rasters
the labels' pixels (fills) went through `geometry` in longitude and latitude, and lie under the labels' own
coordinates in the raster's CRS (outlines) only where both ways agree; how far they do is printed.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from condinst.instances import RleMasks
from jobs.scenes import render
from pipeline import tables
from pipeline.geo.aoi import read_area
from pipeline.geo.georef import Georef, transformer
from pipeline.geo.polygons import on_map
from pipeline.plan import read_shard
from pipeline.records import Window
from pipeline.tiled.inspect import look_at
from pipeline.tiled.pixels import window_pixels
from pipeline.tiled.settings import Tiling
from tests.bench import harness
from tests.rasters import opened, rle_masks, write_raster
from tests.tiled import tiled_job

ABROAD = "OGC:CRS84"
"""Longitude and latitude: what geometries of rasters in several systems are in."""
FILL, OUTLINE, BORDER = (255, 168, 38), (90, 230, 255), (255, 255, 255)
QUALITY = 45
Shapes = Sequence[Any]


class Canvas:
    """A raster as the model sees it, and shapes drawn on it in its pixels."""

    def __init__(self, path: Path, scale: int) -> None:
        raster = opened(path)
        frozen = look_at(raster, Tiling())
        assert frozen.georef is not None
        self.georef: Georef = frozen.georef
        self.size = frozen.width, frozen.height
        rgb = window_pixels(raster, frozen, Window(0, 0, *self.size)).rgb
        raster.close()
        self._scale = scale
        self._image = Image.fromarray(rgb).resize([side * scale for side in self.size])

    def in_pixels(self, shapes: Shapes, crs: str) -> list[Any]:
        """Shapes on the map in the raster's pixels."""
        change = transformer(crs, self.georef.crs)

        def place(points: np.ndarray) -> np.ndarray:
            return np.column_stack(self.georef.pixel(*change.transform(*points.T)))

        return [shapely.transform(shape, place) for shape in shapes]

    def fill(self, shapes: Shapes, opacity: float = 0.45) -> None:
        layer = Image.new("L", self._image.size)
        pen = ImageDraw.Draw(layer)
        for ring, hole in self._rings(shapes):
            pen.polygon(ring, fill=0 if hole else round(255 * opacity))
        self._image.paste(Image.new("RGB", layer.size, FILL), mask=layer)

    def outline(self, shapes: Shapes, colour: tuple[int, int, int] = OUTLINE, width: int = 2) -> None:
        pen = ImageDraw.Draw(self._image)
        for ring, _ in self._rings(shapes):
            pen.line(ring, fill=colour, width=width, joint="curve")

    def _rings(self, shapes: Shapes) -> list[tuple[list[tuple[float, float]], bool]]:
        """Each ring's corners on the canvas, and whether it is a hole."""
        found = []
        for part in shapely.get_parts(np.array(shapes, dtype=object)):
            if shapely.get_dimensions(part) < 2:
                continue
            for number, ring in enumerate([part.exterior, *part.interiors]):
                corners = [(x * self._scale, y * self._scale) for x, y in ring.coords]
                found.append((corners, number > 0))
        return found

    def save(self, path: Path) -> int:
        """Write a JPEG; returns its bytes."""
        self._image.save(path, quality=QUALITY)
        return path.stat().st_size


def masks_of(shapes: Shapes, size: tuple[int, int]) -> RleMasks:
    """Masks of shapes in pixels, as COCO draws them."""
    pixels, corners = [], []
    for shape in shapes:
        outlines = [np.ravel(part.exterior.coords).tolist() for part in shapely.get_parts(shape)]
        bits = coco.decode(coco.merge(coco.frPyObjects(outlines, size[1], size[0]))).astype(bool)
        rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
        corners.append((int(columns[0]), int(rows[0])))
        pixels.append(bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return rle_masks(pixels, corners)


def labelled(canvas: Canvas, in_pixels: Shapes, labels: Path, target: Path) -> dict[str, object]:
    """Labels known in pixels and on the map, drawn over their raster both ways."""
    geometry = on_map(masks_of(in_pixels, canvas.size), canvas.georef, ABROAD).geometry
    filled = shapely.make_valid(canvas.in_pixels(geometry, ABROAD))
    crs = read_area(labels.read_bytes(), labels.name).crs
    features = json.loads(labels.read_text())["features"]
    shapes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features]
    outlined = [shapely.make_valid(shape) for shape in canvas.in_pixels(shapes, crs)]
    canvas.fill(filled)
    canvas.outline(outlined)
    one, other = shapely.union_all(filled), shapely.intersection(
        shapely.union_all(outlined), shapely.box(0, 0, *canvas.size)
    )  # fmt: skip
    iou = one.intersection(other).area / one.union(other).area
    return {"labels": len(in_pixels), "iou": round(iou, 4), "bytes": canvas.save(target)}


def buildings(folder: Path, target: Path) -> dict[str, object]:
    """SpaceNet: panchromatic, 16 bits; polygons in pixels (COCO) and in UTM (GeoJSON)."""
    canvas = Canvas(folder / "atlanta_pan_733601_3724689.tif", 1)
    document = json.loads((folder / "buildings_coco.json").read_text())
    shapes = [
        shapely.union_all([shapely.make_valid(shapely.Polygon(np.reshape(part, (-1, 2)))) for part in parts])
        for parts in (annotation["segmentation"] for annotation in document["annotations"])
    ]
    return labelled(canvas, shapes, folder / "buildings.geojson", target)


def crowns(folder: Path, target: Path) -> dict[str, object]:
    """NEON: boxes in pixels (CSV) and in UTM (GeoJSON)."""
    canvas = Canvas(folder / "OSBS_029.tif", 2)
    with (folder / "OSBS_029.csv").open() as rows:
        boxes = [
            [float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")] for row in csv.DictReader(rows)
        ]
    return labelled(canvas, [shapely.box(*box) for box in boxes], folder / "OSBS_029_boxes.geojson", target)


def stitched(target: Path, side: int = 896) -> dict[str, object]:
    """A generated orthomosaic segmented in windows: `geometry` of all rows, and the windows' borders."""
    with tempfile.TemporaryDirectory(prefix="maps-") as scratch:
        folder = Path(scratch)
        (folder / "in").mkdir()
        image = np.ascontiguousarray(render(23, side, side).image.transpose(2, 0, 1))
        path = write_raster(folder / "in" / "ortho.tif", image)
        tiling = Tiling(size=384, overlap=96, crs=ABROAD)
        job = tiled_job(folder / "in", folder / "out", tiling=tiling, detect={"score_threshold": 0.4})
        job.do()
        canvas, run = Canvas(path, 1), tables.open(job.store.uri)
        rows = run.instances(["geometry"])["geometry"].to_pylist()
        shapes = canvas.in_pixels(shapely.from_wkb(rows), ABROAD)
        assert job.plan.windows is not None
        plan = job.plan.windows
        windows = [ref.window for n in range(plan.shards) for ref in read_shard(job.windows, plan, n)]
    canvas.fill(shapes, 0.3)
    canvas.outline(shapes, width=1)
    borders = [shapely.box(w.x, w.y, w.x + w.width, w.y + w.height) for w in windows if w is not None]
    canvas.outline(borders, BORDER, 1)
    return {"instances": len(rows), "windows": len(windows), "bytes": canvas.save(target)}


def main() -> None:
    data, images = Path(sys.argv[1]) / "geo", Path(sys.argv[2])
    figures = {
        "buildings": buildings(data / "spacenet-atlanta-chip", images / "map-buildings.jpg"),
        "crowns": crowns(data / "neon-osbs-tile", images / "map-crowns.jpg"),
        "stitched": stitched(images / "map-stitched.jpg"),
    }
    harness.report("maps", None, figures)


if __name__ == "__main__":
    main()
