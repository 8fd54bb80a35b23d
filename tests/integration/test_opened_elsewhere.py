"""Exports opened by the programs that people look at maps with, where they are installed.

QGIS is Debian's `python3-qgis`, whose Python is the system's. DuckDB's spatial extension is no part of its
package: `DUCKDB_SPATIAL_PYTHON` names a Python that has both (`duckdb`, `duckdb-extension-spatial`).
"""

from __future__ import annotations

import json
import os
import subprocess
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import shapely
from rich.console import Console

from jobs.export import Request, export_output
from jobs.scenes import render
from pipeline.tables import Run
from pipeline.tiled.settings import Tiling
from tests.rasters import UTM, write_raster
from tests.tiled import tiled_job

QGIS = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "masks", "ogr")
shapes = [feature.geometry() for feature in layer.getFeatures()]
said = {"opens": layer.isValid(), "crs": layer.crs().authid(), "count": len(shapes)}
said["valid"] = all(shape.isGeosValid() for shape in shapes)
said["area"] = sum(shape.area() for shape in shapes)
print(json.dumps(said))
"""
SPATIAL = """
import glob, json, os, sys
import duckdb, duckdb_extension_spatial
folder = os.path.dirname(duckdb_extension_spatial.__file__)
found = glob.glob(f"{folder}/**/spatial.duckdb_extension", recursive=True)[0]
at = duckdb.connect(config={"allow_unsigned_extensions": "true"})
at.execute(f"LOAD '{found}'")
count, valid, area = at.execute(
    f"SELECT count(*), bool_and(ST_IsValid(geometry)), sum(ST_Area(geometry)) FROM '{sys.argv[1]}'"
).fetchone()
print(json.dumps({"count": count, "valid": valid, "area": area}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An orthomosaic in UTM."""
    folder, out = tmp_path_factory.mktemp("ortho"), tmp_path_factory.mktemp("masks") / "out"
    write_raster(folder / "ortho.tif", np.maximum(render(7, 256, 256).image.transpose(2, 0, 1), 1))
    job = tiled_job(folder, out, tiling=Tiling(size=256, overlap=96))
    job.do()
    return job.run


def expected(run: Run) -> dict[str, object]:
    shapes = shapely.from_wkb(run.instances()["geometry"].to_pylist())
    assert len(shapes)
    return {"count": len(shapes), "valid": True, "area": pytest.approx(float(shapely.area(shapes).sum()))}


def asked(python: str, script: str, file: Path) -> dict[str, object]:
    """What a program says of a file."""
    done = subprocess.run([python, "-c", script, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def exported(run: Run, form: str, file: Path) -> Path:
    export_output(Request(run.store.uri, form, file), Console(file=StringIO()))
    return file


@pytest.mark.parametrize(
    ("form", "ending"), [("gpkg", "gpkg"), ("flatgeobuf", "fgb"), ("geojson", "geojson")]
)
def test_qgis_opens_what_is_exported(run: Run, form: str, ending: str, tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import qgis.core"], capture_output=True).returncode:
        pytest.skip("QGIS is not installed (Debian's python3-qgis)")
    said = asked(python, QGIS, exported(run, form, tmp_path / f"masks.{ending}"))
    assert said.pop("opens")
    wanted = expected(run)
    if form == "geojson":  # in degrees, as its standard demands
        assert said.pop("crs") == "EPSG:4326"
        said["area"] = wanted["area"] = 0.0
    else:
        assert said.pop("crs") == UTM
    assert said == wanted


@pytest.mark.parametrize("whose", ["table", "export"])
def test_duckdb_spatial_reads_geometries(run: Run, whose: str, tmp_path: Path) -> None:
    python = os.environ.get("DUCKDB_SPATIAL_PYTHON")
    if not python:
        pytest.skip("DUCKDB_SPATIAL_PYTHON names no Python with duckdb and duckdb-extension-spatial")
    file = exported(run, "geoparquet", tmp_path / "masks.parquet")
    if whose == "table":
        file = Path(run.store.uri) / "instances" / "*.parquet"
    assert asked(python, SPATIAL, file) == expected(run)
