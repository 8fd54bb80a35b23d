"""Both stages of a tiled job in this process: rows, their order, their places, what is lost when it is."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from jobs.scenes import render
from pipeline import tables, watchdog
from pipeline.care import GIVEN_UP_AFTER
from pipeline.commit import commit_key
from pipeline.engine import attempt, worker_of
from pipeline.export.places import write_places
from pipeline.export.selection import Selection
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource
from pipeline.stitch.seams import compare
from pipeline.storage import Store
from pipeline.tiled import together
from pipeline.tiled.found import instances_of
from pipeline.tiled.settings import Tiling
from pipeline.verify import Outcome, verify
from tests.bench.mosaic import quarters, segmented
from tests.rasters import UTM, terrain, write_raster
from tests.tiled import TiledJob, local, tiled_job
from tests.tiny import encoded, picture, tiny_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated orthomosaic of 768 x 640 pixels with a collar of nodata to the right."""
    image = render(7, 640, 640).image.transpose(2, 0, 1)
    bands = np.maximum(np.pad(image, ((0, 0), (0, 0), (0, 128))), 1)
    bands[:, :, 640:] = 0
    folder = tmp_path_factory.mktemp("scene")
    write_raster(folder / "ortho.tif", bands, nodata=0, tiled=True, blockxsize=128, blockysize=128)
    return folder


@pytest.fixture(scope="module")
def done(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> TiledJob:
    job = tiled_job(scene, tmp_path_factory.mktemp("done") / "out", tiling=Tiling(size=256, overlap=96))
    job.do()
    return job


def test_windows_that_hold_all_they_may_are_counted(scene: Path, tiny: Path, tmp_path: Path) -> None:
    job = tiled_job(scene, tmp_path / "out", tiny)
    job.do()
    windows = tables.open(job.windows.uri).images()["capped"].to_pylist()
    (raster,) = job.run.images()["capped"].to_pylist()
    assert raster == sum(windows) == job.run.commits[0].capped > 1


def test_the_output_agrees_with_itself_and_so_do_its_windows(done: TiledJob) -> None:
    for store in (done.store, done.windows):
        report = verify(store, full=True)
        assert not report.findings
        assert report.outcome is Outcome.GOOD
    (row,) = done.run.images().to_pylist()
    assert (row["status"], row["width"], row["height"], row["crs"]) == ("ok", 768, 640, UTM)
    assert row["tiles"] == done.plan.windows.images  # type: ignore[union-attr]
    assert row["capped"] == 0
    assert row["instances"] == done.run.instances().num_rows > 20
    assert row["transform"] == list(from_origin(386_200.0, 6_471_800.0, 0.05, 0.05))[:6]


def test_geometry_and_mask_say_the_same_place(done: TiledJob) -> None:
    (image,) = done.run.images().to_pylist()
    transform = rasterio.Affine(*image["transform"])
    for row in done.run.instances().to_pylist():
        on_map = shapely.from_wkb(row["geometry"])
        assert on_map.is_valid
        in_pixels = shapely.transform(
            on_map, lambda points: np.array([~transform @ (x, y) for x, y in points])
        )
        mask = row["mask"]
        frame = (mask["x"], mask["y"], mask["x"] + mask["width"], mask["y"] + mask["height"])
        assert in_pixels.bounds == pytest.approx(frame, abs=0.01)
        assert in_pixels.area == pytest.approx(row["area"], abs=0.01)
        assert row["area_m2"] == pytest.approx(row["area"] * 0.0025, rel=2e-3)
        assert list(row["geometry_bbox"].values()) == pytest.approx(on_map.bounds)


def test_what_is_written_is_geoparquet_that_geopandas_reads(done: TiledJob) -> None:
    import geopandas

    path = next(Path(done.store.uri).glob("instances/*.parquet"))
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_authority() == ("EPSG", "32635")
    assert len(frame) == done.run.instances().num_rows
    assert json.loads(pq.read_schema(path).metadata[b"geo"])["version"] == "1.1.0"


def test_no_instance_has_a_pixel_without_data(done: TiledJob) -> None:
    for row in done.run.instances().to_pylist():
        assert row["mask"]["x"] + row["mask"]["width"] <= 640
    statuses = tables.open(done.windows.uri).images()["status"].to_pylist()
    assert "ok" in statuses


@pytest.mark.parametrize(("shard_size", "seed"), [(1, 1), (3, 2), (100, 3)])
def test_rows_do_not_depend_on_shards_or_their_order(
    scene: Path, tiny: Path, tmp_path: Path, shard_size: int, seed: int
) -> None:
    def rows(name: str, size: int, seed: int | None) -> tuple[pa.Table, pa.Table]:
        # A batch of one window: which windows share a batch moves scores by rounding, and shards cut batches.
        job = tiled_job(scene, tmp_path / name, tiny, size, Tiling(size=128, overlap=48), batch_images=1)
        order = list if seed is None else lambda ids: random.Random(seed).sample(ids, len(ids))
        job.do(order=order)
        return job.rows()

    images, instances = rows("reference", 7, None)
    assert instances.num_rows > 20
    assert rows("other", shard_size, seed) == (images, instances)


def test_windows_of_nothing_but_nodata_are_counted_and_not_looked_at(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    bands = terrain(3, 128, 512)
    bands[:, :, 128:] = 0
    write_raster(folder / "half.tif", bands, nodata=0)
    write_raster(folder / "none.tif", np.zeros((3, 128, 128), np.uint8), nodata=0)
    job = tiled_job(folder, tmp_path / "out", tiny, tiling=Tiling(size=128, overlap=0))
    job.do()
    windows = tables.open(job.windows.uri).images().to_pylist()
    assert [row["status"] for row in windows][1:] == ["nodata"] * 4
    assert all(row["infer_ms"] is None for row in windows[1:])
    assert windows[0]["error"] is None
    statuses = {row["image_id"]: row["status"] for row in job.run.images().to_pylist()}
    assert statuses["none.tif"] == "nodata"
    assert statuses["half.tif"] in ("ok", "empty")


def test_a_window_says_how_much_of_it_is_nodata_but_for_specks(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    collar, specks = terrain(3, 96, 96), terrain(3, 96, 96)
    collar[:, :, :20] = 0
    specks[:, ::7, ::5] = 0
    write_raster(folder / "collar.tif", collar, nodata=0)
    write_raster(folder / "specks.tif", specks, nodata=0)
    job = tiled_job(folder, tmp_path / "out", tiny, tiling=Tiling(size=128, overlap=0))
    job.do()
    first, second = tables.open(job.windows.uri).images().to_pylist()
    assert first["error"] == "1,920 of its pixels are nodata", "what lies beyond the raster does not count"
    assert second["error"] is None
    assert job.run.images()["error"].null_count == 2


def test_a_photograph_is_cut_too_and_has_no_place(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "large.jpg").write_bytes(encoded(picture(3, 300, 500), "JPEG"))
    job = tiled_job(folder, tmp_path / "out", tiny, tiling=Tiling(size=128, overlap=32))
    job.do()
    (row,) = job.run.images().to_pylist()
    assert (row["status"], row["width"], row["height"], row["crs"]) == ("ok", 500, 300, None)
    assert job.run.instances()["geometry"].null_count == row["instances"] > 0
    assert verify(job.store, full=True).outcome is Outcome.GOOD


def test_an_unreadable_block_costs_its_windows_and_the_row_says_so(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_raster(
        folder / "a.tif", terrain(3, 256, 256), tiled=True, blockxsize=128, blockysize=128, compress="deflate"
    )
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(bytes(data))
    job = tiled_job(folder, tmp_path / "out", tiny, tiling=Tiling(size=128, overlap=0))
    job.do()
    (row,) = job.run.images().to_pylist()
    statuses = tables.open(job.windows.uri).images()["status"].to_pylist()
    assert statuses.count("corrupt") == 1
    assert row["status"] == "ok"
    assert row["error"].startswith("1 of 4 windows were not segmented, the first corrupt: ")


def test_inputs_that_cannot_be_read_end_as_they_would_anywhere(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "a.tif", terrain(3, 64, 64))
    (folder / "cut.tif").write_bytes((folder / "a.tif").read_bytes()[:30])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "text.tif").write_text("no raster")
    changed, gone = folder / "changed.tif", folder / "gone.tif"
    for path in (changed, gone):
        write_raster(path, terrain(3, 64, 64))
    job = tiled_job(folder, tmp_path / "out", tiny, tiling=Tiling(size=64, overlap=0))
    write_raster(changed, terrain(3, 80, 80))
    gone.unlink()
    job.do()
    statuses = {row["image_id"]: row["status"] for row in job.run.images().to_pylist()}
    assert statuses.pop("a.tif") in ("ok", "empty")
    assert statuses == {
        "changed.tif": "missing",
        "cut.tif": "corrupt",
        "empty.tif": "corrupt",
        "gone.tif": "missing",
        "text.tif": "unsupported",
    }


def test_nothing_is_stitched_before_its_windows_are_committed(
    scene: Path, tiny: Path, tmp_path: Path
) -> None:
    job = tiled_job(scene, tmp_path / "out", tiny)
    assert job.plan.windows is not None
    first, *rest = job.plan.windows.shard_ids()
    worker = worker_of(job.settings.of_windows(), None)
    for shard in rest:
        worker.process(shard)
    worker.close()
    stitching = worker_of(job.settings.of_stitching(), None)
    (shard,) = job.plan.shard_ids()
    result = attempt(stitching.process, shard)
    stitching.close()
    assert f"window shard {first} is not committed" in (result.error or "")
    assert not list(job.store.list(commit_key(shard)))
    assert not list(job.store.list("_attempts/"))


def test_rasters_that_overlap_give_what_the_single_raster_gives_when_asked(tmp_path: Path) -> None:
    """Of a scene on which what the parts' rims cut would make 15 in a hundred more."""
    mosaic = segmented(tmp_path, 12, 640, 96, Tiling(size=256, overlap=64, across_rasters=True))
    sides = mosaic.compared
    assert sides.reference.instances > 70
    assert sides.tiled.instances == pytest.approx(sides.reference.instances, rel=0.01)
    assert sides.tiled.alone_elsewhere == sides.reference.alone_elsewhere == 0
    assert verify(Store.open(str(tmp_path / "out-parts")), full=True).outcome is Outcome.GOOD


def test_a_mosaic_cut_anywhere_gives_what_the_single_raster_gives(tmp_path: Path) -> None:
    """Into rasters that begin on no multiple of the network's stride, larger than is looked at as one."""
    mosaic = segmented(tmp_path, 21, 1500, 600, Tiling(size=512, overlap=128, across_rasters=True))
    sides = mosaic.compared
    assert sides.reference.instances > 300
    assert sides.matched > 0.98
    assert sides.duplicates < 0.003
    assert sides.tiled.instances == pytest.approx(sides.reference.instances, rel=0.01)
    assert verify(Store.open(str(tmp_path / "out-parts")), full=True).outcome is Outcome.GOOD


@pytest.mark.parametrize("scale", [0.5, 32 / 46])
def test_windows_at_another_scale_show_what_the_whole_shows(tmp_path: Path, scale: float) -> None:
    image = np.ascontiguousarray(render(5, 900, 1100).image.transpose(2, 0, 1))
    folder = tmp_path / "in"
    folder.mkdir()
    write_raster(folder / "a.tif", image)
    found = {}
    for size, overlap in ((1610, 0), (552, 230)):
        tiling = Tiling(size=size, overlap=overlap, scale=scale).on_grid()
        job = tiled_job(folder, tmp_path / str(size), tiling=tiling, detect={"score_threshold": 0.3})
        job.do()
        found[size] = instances_of(job.run.instances())
        assert verify(job.store, full=True).outcome is Outcome.GOOD
    sides = compare(found[1610], found[552], np.zeros((0, 4), np.int64), 0.3)
    assert sides.reference.instances > 30
    assert sides.matched > 0.95


def test_rasters_that_overlap_double_what_lies_in_both_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    image = np.ascontiguousarray(render(3, 320, 320).image.transpose(2, 0, 1))
    quarters(image, folder, 160)
    rows = []
    for across in (False, True):
        tiling = Tiling(size=256, overlap=64, across_rasters=across)
        job = tiled_job(folder, tmp_path / f"out-{across}", tiling=tiling)
        job.do()
        rows.append(job.run.instances().num_rows)
    assert rows[0] > 1.3 * rows[1] > 0


def test_an_area_of_interest_keeps_what_lies_in_it(scene: Path, tiny: Path, tmp_path: Path) -> None:
    transform = from_origin(386_200.0, 6_471_800.0, 0.05, 0.05)
    corners = [transform @ corner for corner in ((100, 80), (400, 80), (400, 300), (100, 300), (100, 80))]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32635"}}
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [corners], "crs": crs}))
    source = InputSource(str(scene), area=str(area))
    job = tiled_job(source, tmp_path / "out", tiny, tiling=Tiling(size=128, overlap=32))
    job.do()
    polygon = shapely.Polygon(corners)
    shapes = shapely.from_wkb(job.run.instances()["geometry"].to_pylist())
    assert len(shapes)
    assert all(shape.intersects(polygon) for shape in shapes)


def test_an_export_of_geometries_in_another_system_than_the_rasters(
    scene: Path, tiny: Path, tmp_path: Path
) -> None:
    import geopandas

    tiling = Tiling(size=256, overlap=64, crs="EPSG:3301")
    job = tiled_job(scene, tmp_path / "out", tiny, tiling=tiling)
    job.do()
    own = shapely.from_wkb(job.run.instances()["geometry"].to_pylist())
    assert job.run.crs == "EPSG:3301"
    write_places(job.run, Selection(), tmp_path / "out.parquet")
    frame = geopandas.read_parquet(tmp_path / "out.parquet")
    assert frame.crs.to_authority() == ("EPSG", "3301")
    assert (frame.geometry.values == own).all()
    write_places(job.run, Selection(), tmp_path / "utm.parquet", UTM)
    back = geopandas.read_parquet(tmp_path / "utm.parquet").to_crs("EPSG:3301")
    assert shapely.hausdorff_distance(back.geometry.values, own).max() < 1e-3


@pytest.fixture
def halfway(tiny: Path, tmp_path: Path) -> TiledJob:
    """A job whose windows are done, and its only raster is not."""
    write_raster(tmp_path / "in.tif", terrain(3, 96, 192))
    job = tiled_job(tmp_path / "in.tif", tmp_path / "out", tiny, tiling=Tiling(size=96, overlap=0))
    assert job.plan.windows is not None
    local(job.settings.of_windows(), job.plan.windows.shard_ids())
    return job


def test_a_stitch_shard_that_many_processes_died_at_is_given_up(halfway: TiledJob) -> None:
    ledger, worker = Ledger(halfway.store), worker_of(halfway.settings.of_stitching(), None)
    (shard,) = halfway.plan.shard_ids()
    for _ in range(GIVEN_UP_AFTER):
        last = ledger.begin(shard, "gone")
    error = attempt(worker.process, shard).error
    assert error is not None
    assert error.startswith(f"ShardGivenUp: 12 attempts at shard {shard} began and did not end")
    ledger.abandon(shard, last)
    assert attempt(worker.process, shard).error is None
    worker.close()


def test_a_step_of_stitching_that_does_not_end_ends_its_process(
    halfway: TiledJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, why = threading.Event(), []
    add = together.Stitcher.add

    def hanging(self: together.Stitcher, *arguments: Any) -> Any:
        assert ended.wait(60)
        return add(self, *arguments)

    def die(said: str) -> None:
        why.append(said)
        ended.set()

    monkeypatch.setattr(together.Stitcher, "add", hanging)
    monkeypatch.setattr(together, "STEP_SECONDS", 0.2)
    monkeypatch.setattr(watchdog, "SLACK", 600.0)
    monkeypatch.setattr(watchdog, "die", die)
    local(halfway.settings.of_stitching(), halfway.plan.shard_ids())
    assert why[0].startswith("stitching raster 0 of shard 0000-000000 has not ended within 0.2 s")
