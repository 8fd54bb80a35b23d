"""Polygons on the map become masks in the very windows that a tiled job's model sees."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console

from condinst.instances import RleMasks
from jobs.check import load_text
from jobs.chips import Request, cut_chips
from jobs.errors import JobError
from pipeline.geo.georef import Georef
from pipeline.geo.polygons import on_map, pixel_polygons
from pipeline.geo.vector_labels import LabelsError, read_labels
from pipeline.samples import Samples, SampleSource
from pipeline.tiled.chips import Choice
from tests.rasters import NORTH_UP, UTM, blobs, terrain, write_raster

SIDE = 200
CLASSES = ("oak", "pine")


def frame_of(masks: RleMasks, at: int) -> NDArray[np.bool_]:
    rle = {"size": [SIDE, SIDE], "counts": masks.frames((SIDE, SIDE))[at]}
    return coco.decode(rle).astype(bool)


@pytest.fixture(scope="module")
def drawn() -> RleMasks:
    """Masks of 4 to 40 pixels across, each in one part."""
    masks = blobs(14, SIDE, SIDE, seed=4)
    single = [len(shapely.get_parts(shape)) == 1 for shape in pixel_polygons(masks)]
    return masks[np.array(single)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, drawn: RleMasks) -> Path:
    """A raster of 16-bit samples without data to the right, and its labels in two forms and two CRSs."""
    folder = tmp_path_factory.mktemp("chips")
    bands = terrain(3, SIDE, SIDE, "uint16", seed=1)
    bands[:, :, SIDE - 40 :] = 0
    (folder / "in").mkdir()
    write_raster(folder / "in" / "ortho.tif", bands, nodata=0)
    shapes = on_map(drawn, Georef(UTM, tuple(NORTH_UP)[:6])).geometry
    kinds = [CLASSES[number % 2] for number in range(len(shapes))]
    frame = geopandas.GeoDataFrame({"species": kinds}, geometry=list(shapes), crs=UTM)
    frame.to_file(folder / "utm.gpkg")
    frame.to_crs("EPSG:4326").to_file(folder / "degrees.geojson")
    return folder


def request(place: Path, labels: str, to: Path, size: int = SIDE, overlap: int = 0, **more: Any) -> Request:
    spec = {
        "kind": "segment",
        "name": "chips",
        "input": {"uri": str(place / "in")},
        "tiling": {"size": size, "overlap": overlap},
        "output": {"uri": str(to.parent / "none")},
    }
    return Request(load_text(json.dumps(spec), "spec"), str(place / labels), to, **more)


def cut(asked: Request) -> tuple[dict[str, Any], str]:
    console = Console(file=io.StringIO(), width=300)
    cut_chips(asked, console)
    assert isinstance(console.file, io.StringIO)
    return json.loads((Path(asked.to) / "truth.json").read_text()), console.file.getvalue()


def windows_of(truth: dict[str, Any]) -> dict[int, tuple[int, int]]:
    """x and y of each image's window, by the image's id."""
    names = {image["id"]: Path(image["file_name"]).stem.split("_") for image in truth["images"]}
    return {number: (max(0, int(x)), max(0, int(y))) for number, (x, y) in names.items()}


def test_a_whole_raster_has_the_pixels_that_were_drawn(place: Path, drawn: RleMasks, tmp_path: Path) -> None:
    truth, said = cut(request(place, "utm.gpkg", tmp_path / "out", column="species"))
    (image,) = truth["images"]
    assert image["file_name"] == "ortho.tif/0_0.png"
    assert [c["name"] for c in truth["categories"]] == list(CLASSES)
    data = np.zeros((SIDE, SIDE), bool)
    data[:, : SIDE - 40] = True
    found = [(coco.decode(a["segmentation"]).astype(bool), a) for a in truth["annotations"]]
    kept = 0
    for number in range(len(drawn)):
        wanted = frame_of(drawn, number)
        same = [a for pixels, a in found if (pixels == wanted & data).all()]
        if (wanted & data).sum() >= 0.2 * wanted.sum():
            kept += 1
            assert truth["categories"][same[0]["category_id"] - 1]["name"] == CLASSES[number % 2]
            assert same[0]["area"] == (wanted & data).sum()
    assert kept == len(found)
    assert f"1 image (0 without a label) with {kept} instances of oak, pine" in said
    pixels = np.asarray(Image.open(tmp_path / "out" / "images" / image["file_name"]))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels[:, : SIDE - 40].max() > 200, "16 bits are stretched, as in a run"


def test_windows_hold_what_lies_in_them_and_every_label_is_somewhere(
    place: Path, drawn: RleMasks, tmp_path: Path
) -> None:
    truth, said = cut(request(place, "utm.gpkg", tmp_path / "out", 96, 48, choice=Choice(least=0)))
    at = windows_of(truth)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    whole = [frame_of(drawn, number) for number in range(len(drawn))]
    seen = set()
    for annotation in truth["annotations"]:
        (x, y), (height, width) = at[annotation["image_id"]], sizes[annotation["image_id"]]
        pixels = coco.decode(annotation["segmentation"]).astype(bool)
        data = np.arange(x, x + width) < SIDE - 40
        parts = [frame[y : y + height, x : x + width] & data for frame in whole]
        matching = [number for number, part in enumerate(parts) if part.any() and (part == pixels).all()]
        assert matching
        seen.update(matching)
    on_data = {number for number, frame in enumerate(whole) if frame[:, : SIDE - 40].any()}
    assert seen == on_data
    assert len(truth["images"]) > 9
    assert f"{len(on_data)} of {len(drawn)} labels are in one image or more" in said


def test_labels_of_another_crs_lie_in_the_same_place(place: Path, tmp_path: Path) -> None:
    same, _ = cut(request(place, "utm.gpkg", tmp_path / "a", column="species"))
    other, _ = cut(request(place, "degrees.geojson", tmp_path / "b", column="species"))
    assert len(same["annotations"]) == len(other["annotations"])
    for one, two in zip(same["annotations"], other["annotations"], strict=True):
        assert one["category_id"] == two["category_id"]
        assert coco.iou([one["segmentation"]], [two["segmentation"]], [0])[0, 0] > 0.8


def test_training_reads_it(place: Path, tmp_path: Path) -> None:
    truth, said = cut(request(place, "utm.gpkg", tmp_path / "out", 96, 32, alone="tree"))
    samples = Samples([SampleSource(str(tmp_path / "out" / "truth.json"), str(tmp_path / "out" / "images"))])
    assert samples.classes == ("tree",)
    assert samples.instances == len(truth["annotations"])
    for number in range(len(samples)):
        assert samples[number].image.ndim == 3
    assert f"data.train: {{uri: {tmp_path}/out/images, annotations: {tmp_path}/out/truth.json}}" in said


def test_rasters_of_one_name_and_one_that_lies_nowhere(place: Path, tmp_path: Path) -> None:
    """Each has images of its own; what cannot be placed costs itself."""
    (tmp_path / "in").mkdir()
    bands = terrain(3, 64, 64)
    write_raster(tmp_path / "in" / "ortho.tif", bands)
    write_raster(tmp_path / "in" / "ortho.tiff", bands[::-1])
    local = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["m",1]]'
    write_raster(tmp_path / "in" / "site.tif", bands, crs=local)
    shutil.copy(place / "utm.gpkg", tmp_path)
    truth, said = cut(request(tmp_path, "utm.gpkg", tmp_path / "out", 64))
    names = [image["file_name"] for image in truth["images"]]
    assert names == ["ortho.tif/0_0.png", "ortho.tiff/0_0.png"]
    first, second = (np.asarray(Image.open(tmp_path / "out" / "images" / name)) for name in names)
    assert (first == second[..., ::-1]).all()
    assert "left out: 1 windows of images that do not say where on Earth they lie" in said


def test_windows_without_a_label_may_be_left_out(place: Path, tmp_path: Path) -> None:
    with_empty, said = cut(request(place, "utm.gpkg", tmp_path / "a", 64))
    without, also = cut(request(place, "utm.gpkg", tmp_path / "b", 64, choice=Choice(empty=False)))
    labelled = {a["image_id"] for a in with_empty["annotations"]}
    assert len(without["images"]) == len(labelled) < len(with_empty["images"])
    assert f"({len(with_empty['images']) - len(labelled)} without a label)" in said
    assert "left out: " in also
    assert "windows without a label" in also
    assert len(without["annotations"]) == len(with_empty["annotations"])


def test_what_does_not_do_is_said_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = [
        (request(place, "utm.gpkg", out, column="kind"), r"no column 'kind'; there are .*species"),
        (
            request(place, "degrees.geojson", out, column="kind"),
            r"no feature has a property 'kind'; .*species",
        ),
        (request(place, "nothing.gpkg", out), "there is no such file"),
        (request(place, "in/ortho.tif", out), "no labels on a map"),
    ]
    metres = {"type": "FeatureCollection", "features": [feature(shapely.box(5e5, 6e6, 5e5 + 9, 6e6 + 9))]}
    (tmp_path / "metres.geojson").write_text(json.dumps(metres))
    wrong.append((request(place, str(tmp_path / "metres.geojson"), out), "6000000 is no longitude"))
    (tmp_path / "x.shp").write_bytes((9994).to_bytes(4, "big") + bytes(96))
    wrong.append((request(place, str(tmp_path / "x.shp"), out), r"is a shapefile, .*`ogr2ogr"))
    far = geopandas.GeoDataFrame(geometry=[shapely.box(5e5, 6e6, 5e5 + 9, 6e6 + 9)], crs=UTM)
    far.to_file(tmp_path / "far.gpkg")
    wrong.append(
        (request(place, str(tmp_path / "far.gpkg"), out), r"none of its 1 polygons lies in a window")
    )
    for asked, message in wrong:
        with pytest.raises(JobError, match=message):
            cut(asked)
        assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(JobError, match="out"):
        cut(request(place, "utm.gpkg", out))
    plain = load_text(f"kind: segment\nname: x\ninput: {{uri: {place}}}\noutput: {{uri: o}}\n", "spec")
    with pytest.raises(JobError, match="no `tiling`"):
        cut(Request(plain, str(place / "utm.gpkg"), tmp_path / "other"))


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    if isinstance(geometry, shapely.Geometry):
        geometry = json.loads(shapely.to_geojson(geometry))
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def test_features_that_are_no_labels_are_counted() -> None:
    square = shapely.box(0, 0, 1, 1)
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    point = {"type": "Point", "coordinates": [0, 0]}
    features = [
        feature(square, kind="b"), feature(bow, kind=7), feature(point, kind="b"), feature(None, kind="b"),
        feature(square), feature(square, kind="  "),
    ]  # fmt: skip
    data = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    labels = read_labels(data, "x.geojson", "kind")
    assert labels.names == ("7", "b")
    assert labels.classes.tolist() == [1, 0]
    assert shapely.is_valid(labels.shapes).all()
    assert dict(labels.left_out) == {
        "features that are no polygons": 2,
        "polygons without a class (kind is missing or empty)": 2,
    }
    assert read_labels(data, "x.geojson", alone="thing").names == ("thing",)
    with pytest.raises(LabelsError, match=r"^x\.geojson: .*no polygon"):
        read_labels(json.dumps({"type": "FeatureCollection", "features": []}).encode(), "x.geojson")


def test_the_spacenet_buildings_are_those_of_its_coco_truth(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "geo" / "spacenet-atlanta-chip"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    spec = {
        "kind": "segment",
        "name": "atlanta",
        "input": {"uri": str(folder), "include": ["*.tif"]},
        "tiling": {"size": 928, "overlap": 0},
        "output": {"uri": str(tmp_path / "none")},
    }
    labels = str(next(folder.glob("*.geojson")))
    asked = Request(load_text(json.dumps(spec), "spec"), labels, tmp_path / "out", alone="building")
    truth, _ = cut(asked)
    given = json.loads(next(folder.glob("*coco.json")).read_text())["annotations"]
    size = [truth["images"][0][side] for side in ("height", "width")]
    theirs = [coco.merge(coco.frPyObjects(a["segmentation"], *size)) for a in given]
    ours = [a["segmentation"] for a in truth["annotations"]]
    assert len(ours) == len(theirs)
    assert coco.iou(theirs, ours, [0] * len(ours)).max(axis=1).min() > 0.9
