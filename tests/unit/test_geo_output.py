"""Instances for map programs: GeoParquet's metadata, and files that GeoPandas and DuckDB open."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import CRS

from pipeline.geo.export import FORMATS, export
from pipeline.geo.geoparquet import COVERING, geo_columns, geo_metadata, read_crs
from pipeline.geo.georef import Georef
from pipeline.geo.polygons import OnMap, on_map
from tests.rasters import blobs, rle_masks

GEOREF = Georef("EPSG:32635", (0.05, 0.0, 386_200.0, 0.0, -0.05, 6_471_800.0))


BOW = shapely.Polygon(
    [(386_200, 6_471_700), (386_300, 6_471_800), (386_300, 6_471_700), (386_200, 6_471_800)]
)
"""A polygon that crosses itself."""
SPIKED = shapely.Polygon(
    [
        (386_200, 6_471_700), (386_300, 6_471_700), (386_300, 6_471_750), (386_400, 6_471_750),
        (386_300, 6_471_750), (386_300, 6_471_800), (386_200, 6_471_800),
    ]
)  # fmt: skip
"""A polygon with a line that leads away from it and back: made valid, it is a polygon and a line."""


def rows(count: int, seed: int = 0) -> tuple[OnMap, pa.RecordBatch]:
    """Instances as in the instances table, the last one without a pixel."""
    masks = blobs(count - 1, 3000, 3000, seed)
    masks = type(masks).concatenate([masks, rle_masks([np.zeros((2, 2), bool)], [(0, 0)])])
    found = on_map(masks, GEOREF)
    geometry, covering, area = geo_columns(found)
    boxes = [{"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.5}] * count
    return found, pa.RecordBatch.from_pydict(
        {
            "image_id": [f"ü-{seed}"] * count,
            "category": pa.array(["tree", 'a "car"'] * count)[:count].dictionary_encode(),
            "score": pa.array(np.linspace(1, 0, count), pa.float32()),
            "bbox": pa.array(boxes),
            "mask": [{"x": 1, "counts": b"\x00"}] * count,
            "geometry": geometry,
            COVERING: covering,
            "area_m2": area,
        }
    )


def test_the_metadata_are_those_of_the_standard() -> None:
    found, batch = rows(20)
    said = geo_metadata("EPSG:32635", found.bounds)
    document = json.loads(said["geo"])
    assert (document["version"], document["primary_column"]) == ("1.1.0", "geometry")
    column = document["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["orientation"] == "counterclockwise"
    assert CRS.from_json_dict(column["crs"]) == CRS.from_epsg(32635)
    assert column["bbox"] == list(shapely.total_bounds(found.geometry))
    assert set(column["covering"]["bbox"]) == {"xmin", "ymin", "xmax", "ymax"}
    assert all(path[0] == COVERING for path in column["covering"]["bbox"].values())
    assert batch.column(COVERING).null_count == batch.column("area_m2").null_count == 1
    assert CRS.from_user_input(read_crs(batch.schema.with_metadata(said))) == CRS.from_epsg(32635)
    assert read_crs(batch.schema) is None
    empty = json.loads(geo_metadata("EPSG:32635", np.full((2, 4), np.nan))["geo"])
    assert "bbox" not in empty["columns"]["geometry"]


def test_a_table_with_these_columns_opens_in_geopandas_and_duckdb(tmp_path: Path) -> None:
    found, batch = rows(50)
    table = pa.Table.from_batches([batch]).replace_schema_metadata(geo_metadata("EPSG:32635", found.bounds))
    pq.write_table(table, tmp_path / "x.parquet")
    frame = geopandas.read_parquet(tmp_path / "x.parquet")
    assert frame.crs == "EPSG:32635"
    assert frame.geometry.is_valid.sum() == 49
    assert frame.area[:49].to_numpy() == pytest.approx(found.area[:49] / 1.000966, rel=1e-3)
    west, south, *_ = found.bounds[0].tolist()
    near = geopandas.read_parquet(tmp_path / "x.parquet", bbox=(west, south, west + 0.01, south + 0.01))
    assert 1 <= len(near) < 50
    query = f"SELECT count(*) FROM '{tmp_path}/x.parquet' WHERE {COVERING}.xmin <= {west!r}"
    (counted,) = duckdb.sql(query).fetchall()
    assert counted == (int((found.bounds[:49, 0] <= west).sum()),)


@pytest.mark.parametrize("ending", FORMATS)
def test_an_export_holds_every_row_that_has_a_place(tmp_path: Path, ending: str) -> None:
    parts = [rows(30, seed) for seed in range(3)]
    path = tmp_path / f"a b{ending}"
    done = export((batch for _, batch in parts), parts[0][1].schema, "EPSG:32635", path)
    assert (done.rows, done.without_place) == (87, 3)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]
    read = geopandas.read_parquet if ending == ".parquet" else geopandas.read_file
    frame = read(path)
    assert len(frame) == 87
    assert frame.crs == ("EPSG:4326" if "json" in ending else "EPSG:32635")
    assert frame.geometry.is_valid.all()
    back = frame.to_crs("EPSG:32635")
    places = [back.geometry.bounds.to_numpy(), np.concatenate([found.bounds[:29] for found, _ in parts])]
    ordered = [bounds[np.lexsort(bounds.round(2).T)] for bounds in places]
    assert np.abs(ordered[0] - ordered[1]).max() < 1e-3
    assert set(frame["category"]) == {"tree", 'a "car"'}
    assert set(frame["image_id"]) == {"ü-0", "ü-1", "ü-2"}
    if ending != ".parquet":
        assert set(frame["bbox_height"]) == {4.5}
        assert "mask" not in frame.columns


def with_shapes(batch: pa.RecordBatch, *shapes: Any) -> pa.RecordBatch:
    """The first rows with these as their geometries."""
    at = batch.schema.get_field_index("geometry")
    column = pa.array(shapely.to_wkb(np.array(shapes, dtype=object)), pa.binary())
    return batch.slice(0, len(shapes)).set_column(at, "geometry", column)


@pytest.mark.parametrize("ending", [".geojson", ".geojsonl"])
def test_geometries_in_longitude_and_latitude_are_valid_or_left_out(tmp_path: Path, ending: str) -> None:
    square = shapely.box(386_200, 6_471_700, 386_300, 6_471_800)
    thread = shapely.box(386_200, 6_471_700, 386_300, 6_471_700 + 1e-6)  # nothing of it is left when rounded
    nowhere = shapely.box(1e9, 1e9, 2e9, 2e9)
    batch = with_shapes(rows(9)[1], square, BOW, SPIKED, thread, nowhere)
    done = export([batch], batch.schema, "EPSG:32635", tmp_path / f"x{ending}")
    assert (done.rows, done.without_place) == (3, 2)
    frame = geopandas.read_file(tmp_path / f"x{ending}")
    assert frame.geometry.is_valid.all()
    assert set(frame.geometry.geom_type) <= {"Polygon", "MultiPolygon"}
    assert frame.to_crs("EPSG:32635").area.tolist() == pytest.approx([10_000, 5000, 10_000], rel=1e-3)


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".fgb", ".parquet"])
def test_an_export_of_nothing_is_a_file_of_nothing(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    assert export([], rows(2)[1].schema, "EPSG:32635", path).rows == 0
    assert path.stat().st_size > 0


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def breaking() -> Iterator[pa.RecordBatch]:
        yield rows(5)[1]
        raise OSError("gone")

    for ending in FORMATS:
        with pytest.raises(Exception, match="gone"):
            export(breaking(), rows(5)[1].schema, "EPSG:32635", tmp_path / f"x{ending}")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"\.shp: the ending names the format"):
        export([], rows(2)[1].schema, "EPSG:32635", tmp_path / "x.shp")
    with pytest.raises(ValueError, match="nothing of where they lie"):
        export([], pa.schema([]), "EPSG:32635", tmp_path / "x.gpkg")


MEMORY = """
import re, sys
from pathlib import Path
from pipeline.geo.export import export
from tests.unit.test_geo_output import rows
_, batch = rows(400)
Path(sys.argv[1]).touch()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
export((batch for _ in range(5)), batch.schema, "EPSG:32635", Path(sys.argv[1]))
before = peak()
export((batch for _ in range(50)), batch.schema, "EPSG:32635", Path(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.parametrize("ending", [".gpkg", ".geojson"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 16 << 20
    assert int(done.stdout) < 8 << 10  # KiB
