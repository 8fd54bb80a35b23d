"""Exports hold what the tables hold, and say what they cannot hold."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rasterio.features import rasterize
from rich.console import Console

from condinst import rle
from condinst.coco_truth import read_truth
from condinst.evaluate import load_truth
from jobs.errors import JobError
from jobs.evaluate import Request as Evaluation
from jobs.evaluate import run_evaluation
from jobs.export import FORMATS, Request, export_output
from pipeline import tables
from pipeline.export.coco import write_coco
from pipeline.export.places import UNPLACED
from pipeline.export.selection import CORNERS, UNSIZED, Selection, SelectionError
from pipeline.samples import Samples, SampleSource
from pipeline.storage import Store
from pipeline.tables import Run, crop
from tests.made import NAMES, SIZE, edit, made_output, rewrite

QUIET = Console(file=StringIO())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("made")
    return Run(made_output(str(folder / "out"), folder / "in", images=22))


def export(run: Run, to: Path, form: str, **conditions: Any) -> Any:
    console = Console(file=StringIO(), width=200)
    done = export_output(Request(run.store.uri, form, to, Selection(**conditions)), console)
    return done, console.file.getvalue()  # type: ignore[attr-defined]


def full(row: dict[str, Any]) -> Any:
    """A row's mask as a frame, by decoding its crop."""
    frame, m = np.zeros(SIZE, bool), row["mask"]
    frame[m["y"] : m["y"] + m["height"], m["x"] : m["x"] + m["width"]] = crop(row)
    return frame


def by_image(run: Run) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in run.instances().to_pylist():
        found.setdefault(row["image_id"], []).append(row)
    return found


def test_coco_has_every_instance_with_its_very_mask(run: Run, tmp_path: Path) -> None:
    done, said = export(run, tmp_path / "x.json", "coco")
    coco = load_truth(json.loads((tmp_path / "x.json").read_text()))
    rows = run.instances().to_pylist()
    assert done.instances == len(coco.dataset["annotations"]) == len(rows)
    sized = run.images(filter=pc.field("width").is_valid())["image_id"].to_pylist()
    assert [image["file_name"] for image in coco.dataset["images"]] == sized
    for row, annotation in zip(rows, coco.dataset["annotations"], strict=True):
        assert coco.imgs[annotation["image_id"]]["file_name"] == row["image_id"]
        assert coco.cats[annotation["category_id"]]["name"] == row["category"]
        assert (coco.annToMask(annotation) == full(row)).all()
        assert (annotation["area"], annotation["score"]) == (row["area"], row["score"])
        assert annotation["bbox"] == list(row["bbox"].values())
    assert [image["id"] for image in coco.dataset["images"]] == list(range(1, done.images + 1))
    assert "lost: `truncated`" in said


@pytest.mark.parametrize("name", ['a "b" \\ c\n\x01.png', "ä/ü 木.png", "\u2028.png"])
def test_coco_is_json_whatever_the_names(tmp_path: Path, name: str) -> None:
    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    for table in ("images", "instances"):
        rewrite(store, "0000-000000", table, edit(0, image_id=name))
    write_coco(Run(store), Selection(), tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert found["images"][0]["file_name"] == name


def test_coco_gives_the_ap_that_evaluate_gives(run: Run, tmp_path: Path) -> None:
    """Against a truth of two in three instances, each a bit smaller than it was found."""
    images = [
        {"id": 7 * n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(run.images(filter=pc.field("width").is_valid())["image_id"].to_pylist())
    ]
    number = {image["file_name"]: image["id"] for image in images}
    annotations = []
    for at, row in enumerate(run.instances().to_pylist()):
        mask = full(row)
        mask[row["mask"]["y"] + row["mask"]["height"] - 1 - at % 3 :] = False
        if at % 3 and mask.any():
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": at,
                    "image_id": number[row["image_id"]],
                    "category_id": NAMES.index(row["category"]) + 11,
                    "segmentation": {**encoded, "counts": encoded["counts"].decode()},
                    "bbox": coco_mask.toBbox(encoded).tolist(),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": n + 11, "name": name} for n, name in enumerate(NAMES)]
    truth_file = tmp_path / "truth.json"
    truth_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    ours = run_evaluation(Evaluation(str(truth_file), run.store.uri), QUIET)

    export(run, tmp_path / "x.json", "coco")
    found = json.loads((tmp_path / "x.json").read_text())
    names = {image["id"]: image["file_name"] for image in found["images"]}
    for annotation in found["annotations"]:
        annotation["image_id"] = number[names[annotation["image_id"]]]
        annotation["category_id"] += 10
    truth = COCO(str(truth_file))
    for kind, metrics in zip(("segm", "bbox"), ours, strict=True):
        theirs = COCOeval(truth, truth.loadRes(found["annotations"]), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        assert 0.1 < metrics.ap < 0.9
        assert theirs.stats[0] == pytest.approx(metrics.ap, abs=1e-9)
        assert theirs.stats[1] == pytest.approx(metrics.ap50, abs=1e-9)


def test_coco_is_read_by_training(run: Run, tmp_path: Path) -> None:
    export(run, tmp_path / "x.json", "coco")
    source = SampleSource(str(tmp_path / "x.json"), str(tmp_path))
    names, truths = read_truth(json.loads((tmp_path / "x.json").read_text()))
    assert names == NAMES
    assert Samples([source]).has_masks
    rows = by_image(run)
    for truth in truths:
        wanted = rows.get(truth.file_name, [])
        assert len(truth.instances) == len(wanted)
        for instance, row in zip(truth.instances, wanted, strict=True):
            assert (instance.x, instance.y) == (row["mask"]["x"], row["mask"]["y"])
            assert (instance.mask == crop(row)).all()
            assert names[instance.category] == row["category"]


def test_conditions_choose_instances_and_images(run: Run, tmp_path: Path) -> None:
    everything = run.instances()
    score = float(np.float32(np.median(everything["score"].to_numpy())))

    def count(**conditions: Any) -> tuple[int, int]:
        done = write_coco(run, Selection(**conditions), tmp_path / "x.json")
        held = json.loads((tmp_path / "x.json").read_text())
        assert len(held["annotations"]) == done.instances
        return done.images, done.instances

    scores, areas = everything["score"].to_numpy(), everything["area"].to_numpy()
    images = count()[0]
    assert count(min_score=score) == (images, int((scores >= score).sum()))
    below = count(max_score=score)[1]
    assert below + count(min_score=score)[1] == len(scores)
    assert count(min_area=60, max_area=120)[1] == int(((areas >= 60) & (areas <= 120)).sum())
    chosen = pc.sum(pc.equal(everything["category"].cast(pa.string()), "roof")).as_py()
    assert count(classes=("roof",))[1] == chosen > 0
    assert count(classes=("roof", "stone", "plant"))[1] == len(scores)
    assert count(statuses=("empty",)) == (run.images(filter=pc.field("status") == "empty").num_rows, 0)
    assert write_coco(run, Selection(statuses=("ok", "corrupt")), tmp_path / "x.json").losses[UNSIZED] == 4
    with pytest.raises(SelectionError, match="'plant', 'roof', 'stone'"):
        Selection(classes=("tree",)).check(run)
    with pytest.raises(SelectionError, match="'good' is none of ok, empty"):
        Selection(statuses=("good",)).check(run)


def test_yolo_has_a_polygon_an_instance_with_its_holes_filled(run: Run, tmp_path: Path) -> None:
    done, said = export(run, tmp_path / "y", "yolo-seg")
    names = yaml.safe_load((tmp_path / "y" / "data.yaml").read_text())["names"]
    assert [names[n] for n in range(3)] == list(NAMES)
    rows = by_image(run)
    filled_pixels = holed = 0
    for image in run.images(filter=pc.field("width").is_valid()).to_pylist():
        lines = (tmp_path / "y" / "labels" / f"{Path(image['image_id']).stem}.txt").read_text().splitlines()
        wanted = rows.get(image["image_id"], [])
        assert len(lines) == len(wanted)
        for line, row in zip(lines, wanted, strict=True):
            label, *numbers = line.split()
            assert names[int(label)] == row["category"]
            corners = np.array(numbers, float).reshape(-1, 2)
            assert (corners >= 0).all()
            assert (corners <= 1).all()
            ring = (corners * (SIZE[1], SIZE[0])).round(3)
            drawn = rasterize([{"type": "Polygon", "coordinates": [ring.tolist()]}], SIZE).astype(bool)
            solid = np.logical_or.reduce(
                [
                    rasterize([{"type": "Polygon", "coordinates": [part[0].tolist()]}], SIZE).astype(bool)
                    for part in tables.polygons(row)
                ]
            )
            assert (drawn == solid).all()
            filled_pixels += int(solid.sum()) - row["area"]
            holed += any(len(part) > 1 for part in tables.polygons(row))
    assert holed > 10
    assert f"lost: {holed:,} instances had holes" in said
    assert done.images == len(list((tmp_path / "y" / "labels").iterdir()))
    assert filled_pixels <= done.losses["pixels of holes are now pixels of instances"]
    assert len((tmp_path / "y" / "images.txt").read_text().splitlines()) == done.images


def test_png_masks_hold_instances_and_classes(run: Run, tmp_path: Path) -> None:
    done, _ = export(run, tmp_path / "p", "png-masks")
    rows = by_image(run)
    hidden = 0
    for image in run.images(filter=pc.field("width").is_valid()).to_pylist():
        pictures = [
            np.asarray(Image.open(tmp_path / "p" / kind / f"{image['image_id']}.png"))
            for kind in ("instances", "classes")
        ]
        wanted = [np.zeros(SIZE, np.int64), np.zeros(SIZE, np.int64)]
        for row in rows.get(image["image_id"], []):  # the surest first: it stays
            free = full(row) & (wanted[0] == 0)
            hidden += int((full(row) & (wanted[0] > 0)).sum())
            wanted[0][free] = row["instance_id"] + 1
            wanted[1][free] = row["category_id"]
        assert (pictures[0] == wanted[0]).all()
        assert (pictures[1] == wanted[1]).all()
    assert done.losses["pixels where masks overlap hold the surer one alone"] == hidden > 0
    assert (tmp_path / "p" / "classes.txt").read_text().splitlines() == ["1\tplant", "2\tstone", "3\troof"]


def placed(tmp_path: Path) -> Store:
    """An output whose images of the first shard lie on the map, in two CRSs, the others nowhere."""
    store = made_output(str(tmp_path / "out"), tmp_path / "in")
    places = [
        ("EPSG:32635", [0.1, 0.0, 500_000.0, 0.0, -0.1, 6_400_000.0]),
        ("EPSG:32634", [0.1, 0.0, 860_000.0, 0.0, -0.1, 6_410_000.0]),
    ]
    for at, (crs, transform) in enumerate(places):
        rewrite(store, "0000-000000", "images", edit(at, crs=crs, transform=transform))
    return store


@pytest.mark.parametrize("form", ["geojson", "gpkg", "flatgeobuf", "geoparquet"])
def test_on_the_map_every_placed_instance_has_its_pixels_ground(tmp_path: Path, form: str) -> None:
    run = Run(placed(tmp_path))
    path = tmp_path / f"x{FORMATS[form].ending}"
    done, said = export(run, path, form)
    read = geopandas.read_parquet if form == "geoparquet" else geopandas.read_file
    frame = read(path).sort_values(["image_id", "instance_id"])
    rows = [row for row in run.instances().to_pylist() if row["image_id"] in ("000.png", "001.png")]
    assert list(zip(frame["image_id"], frame["instance_id"], strict=True)) == [
        (row["image_id"], row["instance_id"]) for row in rows
    ]
    assert done.losses[UNPLACED] == run.instances().num_rows - len(rows) > 0
    assert f"lost: {done.losses[UNPLACED]} instances of images without a place" in said
    ground = frame.to_crs("EPSG:32635").geometry.area
    # The second image lies far from its zone's middle, where its map is larger than the ground.
    assert ground.to_numpy() == pytest.approx(np.array([row["area"] * 0.01 for row in rows]), rel=0.01)
    assert frame["area_m2"].to_numpy() == pytest.approx(ground.to_numpy(), rel=0.01)


@pytest.mark.parametrize("form", ["gpkg", "yolo-seg"])
def test_outlines_may_have_fewer_corners(tmp_path: Path, form: str) -> None:
    store, y, x = placed(tmp_path), *np.mgrid[:21, :21]
    disc = (y - 10) ** 2 + (x - 10) ** 2 <= 100
    mask = {"x": 3, "y": 5, "height": 21, "width": 21, "counts": rle.encode(disc)}
    rewrite(store, "0000-000000", "instances", edit(0, mask=mask, area=int(disc.sum())))
    run, corners = Run(store), {}
    for pixels in (0, 1):
        to, console = tmp_path / f"{pixels}{FORMATS[form].ending}", Console(file=StringIO(), width=200)
        done = export_output(Request(run.store.uri, form, to, simplify=pixels), console)
        if form == "gpkg":
            shapes = geopandas.read_file(to).geometry
            corners[pixels] = int(shapes.count_coordinates().sum())
            assert shapes.is_valid.all()
        else:
            lines = [line for path in (to / "labels").glob("*.txt") for line in path.read_text().splitlines()]
            corners[pixels] = sum(len(line.split()) // 2 for line in lines)
    gone = corners[0] - corners[1]
    assert gone == done.losses[CORNERS] > 20
    assert f"lost: {gone:,} {CORNERS}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_map_in_a_crs_of_choice(tmp_path: Path) -> None:
    run = Run(placed(tmp_path))
    export_output(Request(run.store.uri, "geoparquet", tmp_path / "x.parquet", crs="EPSG:3301"), QUIET)
    assert geopandas.read_parquet(tmp_path / "x.parquet").crs == "EPSG:3301"


def test_what_does_not_do_is_said(run: Run, tmp_path: Path) -> None:
    for request, said in (
        (Request(run.store.uri, "shp"), "expected one of coco, yolo-seg"),
        (Request(run.store.uri, "gpkg", tmp_path / "x.json"), "ends in .gpkg"),
        (Request(run.store.uri, "coco", crs="EPSG:4326"), "--crs belongs to formats with a map"),
        (Request(run.store.uri, "gpkg", crs="EPSG:nothing"), "--crs: 'EPSG:nothing' is no coordinate"),
        (Request(run.store.uri, "coco", image_prefix="http://x/"), "--image-prefix belongs to"),
        (
            Request(run.store.uri, "coco", simplify=1),
            "--simplify belongs to map formats and yolo-seg, not to coco",
        ),
        (Request(run.store.uri, "gpkg", tmp_path / "x.gpkg"), "no image of .* has a place on the map"),
        (Request(run.store.uri, "coco", tmp_path / "no" / "x.json"), "No such file or directory"),
        (Request(str(tmp_path / "none"), "coco"), "holds no job"),
    ):
        with pytest.raises(JobError, match=said):
            export_output(request, QUIET)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(JobError, match="holds something already"):
        export_output(Request(run.store.uri, "png-masks", tmp_path / "full"), QUIET)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("form", ["yolo-seg", "png-masks"])
def test_no_image_is_written_outside_the_folder(tmp_path: Path, form: str) -> None:
    """Ids come from outside: they may lead elsewhere, be no name, or be twice the same one."""
    store = made_output(str(tmp_path / "out"), tmp_path / "in", images=8)
    names = ["../../up.png", "/root.png", "a\n.png", "x" * 300, "same.png"]

    def renamed(table: pa.Table) -> pa.Table:
        new = dict(zip((f"{n:03d}.png" for n in range(4)), names, strict=False))
        ids = [new.get(name, "same.jpg") for name in table["image_id"].to_pylist()]
        return table.set_column(0, table.schema.field("image_id"), pa.array(ids, pa.string()))

    for name in ("images", "instances"):
        rewrite(store, "0000-000000", name, renamed)
    done, said = export(Run(store), tmp_path / "deep" / "er" / "e", form)
    files = [path for path in tmp_path.rglob("*.*") if path.suffix in (".txt", ".png")]
    inside = [path for path in files if (tmp_path / "deep" / "er" / "e") in path.parents]
    assert len(files) - len(inside) == 8  # those of the input
    kind = "labels" if form == "yolo-seg" else "instances"
    written = [path for path in inside if kind in path.parts]
    assert len(written) == done.images
    assert "images whose id cannot be a file's name here: left out" in said
    assert any("%2E%2E" in str(path) for path in written)
