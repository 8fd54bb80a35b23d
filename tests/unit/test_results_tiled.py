"""Runs over rasters: their geometries go through exports, filters, comparison and Delta as they are."""

from __future__ import annotations

import io
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely
from deltalake import DeltaTable
from rich.console import Console

from jobs.export import FORMATS, Request, export_output
from jobs.scenes import render
from pipeline.delta import publish
from pipeline.diff import Accounts, diff
from pipeline.export.selection import Selection
from pipeline.filtering import filter_run
from pipeline.storage import Store, StoreOptions
from pipeline.tables import Run
from pipeline.tiled.settings import Tiling
from pipeline.verify import Outcome, verify
from tests.rasters import write_raster
from tests.tiled import tiled_job


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One orthomosaic in UTM whose geometries are in the Estonian grid."""
    folder = tmp_path_factory.mktemp("scene")
    bands = np.maximum(render(7, 512, 512).image.transpose(2, 0, 1), 1)
    write_raster(folder / "ortho.tif", bands)
    out = tmp_path_factory.mktemp("done") / "out"
    job = tiled_job(folder, out, tiling=Tiling(size=256, overlap=96, crs="EPSG:3301"))
    job.do()
    return job.run


@pytest.mark.parametrize("form", ["geoparquet", "gpkg", "geojson"])
@pytest.mark.parametrize("crs", [None, "EPSG:32635"])
def test_geometries_are_the_tables_own(run: Run, tmp_path: Path, form: str, crs: str | None) -> None:
    path = tmp_path / f"x{FORMATS[form].ending}"
    export_output(Request(run.store.uri, form, path, crs=crs), Console(file=io.StringIO()))
    read = geopandas.read_parquet if form == "geoparquet" else geopandas.read_file
    frame = read(path)
    assert frame.crs == ("EPSG:4326" if form == "geojson" else crs or "EPSG:3301")
    frame = frame.sort_values("instance_id").to_crs("EPSG:3301")
    rows = run.instances().sort_by("instance_id")
    wanted = shapely.from_wkb(rows["geometry"].to_pylist())
    assert len(frame) == len(wanted) > 20
    overlap = shapely.intersection(frame.geometry.to_numpy(), wanted)
    assert (shapely.area(overlap) / shapely.area(wanted) > 0.999).all()
    assert frame["area_m2"].to_numpy() == pytest.approx(rows["area_m2"].to_numpy(), rel=1e-6)


def test_a_filtered_run_keeps_its_places_and_its_order(run: Run, tmp_path: Path) -> None:
    target = Store.open(str(tmp_path / "to"))
    filter_run(run, target, Selection(min_score=0.6))
    report = verify(target, full=True)
    assert (report.findings, report.outcome) == ([], Outcome.GOOD)
    chosen = run.instances(filter=pc.field("score") >= 0.6)
    assert 0 < chosen.num_rows < run.instances().num_rows
    kept = Run(target).instances()
    for name in ("geometry", "geometry_bbox", "area_m2", "score", "mask"):
        assert kept[name].to_pylist() == chosen[name].to_pylist()
    geopandas.read_parquet(next(Path(target.uri).glob("instances/*.parquet")))
    accounts = Accounts()
    list(diff(run, run, accounts))
    assert accounts.empty


def test_a_published_run_has_its_places(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        publish(run, str(tmp_path / "lake"), StoreOptions())
    table = DeltaTable(str(tmp_path / "lake" / "instances"))
    assert table.version() == 0
    found = pa.table(table.to_pyarrow_table()).sort_by("instance_id")
    wanted = run.instances().sort_by("instance_id")
    for name in ("geometry", "geometry_bbox", "area_m2"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
