"""Areas of interest: from GeoJSON and GeoPackage to the windows read and the instances kept."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geo.aoi import Area, RasterArea, read_area
from pipeline.geo.georef import Georef, transformer
from tests.rasters import blobs, rle_masks

GEOREF = Georef("EPSG:32635", (0.05, 0.0, 386_200.0, 0.0, -0.05, 6_471_800.0))


def geojson(*shapes: Any, **more: Any) -> bytes:
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(shape))}
        for shape in shapes
    ]
    return json.dumps({"type": "FeatureCollection", "features": features, **more}).encode()


def in_degrees(shape: Any) -> Any:
    change = transformer("EPSG:32635", "OGC:CRS84")
    return shapely.transform(shape, lambda points: np.column_stack(change.transform(*points.T)))


def test_an_area_in_degrees_lies_where_it_is_on_the_raster() -> None:
    ground = shapely.box(386_250, 6_471_700, 386_300, 6_471_750)
    area = read_area(geojson(in_degrees(ground)), "a.geojson")
    found = area.on_raster(GEOREF, 4000, 4000)
    assert found is not None
    assert found.shape.bounds == pytest.approx((1000, 1000, 2000, 2000), abs=0.5)
    assert area.on_raster(GEOREF, 900, 900) is None
    clipped = area.on_raster(GEOREF, 1500, 4000)
    assert clipped is not None
    assert clipped.shape.bounds == pytest.approx((1000, 1000, 1500, 2000), abs=0.5)


def test_the_forms_of_an_area_are_one(tmp_path: Path) -> None:
    one, other = (
        shapely.box(386_250, 6_471_700, 386_300, 6_471_750),
        shapely.box(386_290, 6_471_700, 386_350, 6_471_760),
    )
    both = shapely.union(one, other)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32635"}}
    frame = geopandas.GeoDataFrame(geometry=[one, other], crs="EPSG:32635")
    frame.to_file(tmp_path / "a.gpkg", layer="some area")
    frame.to_file(tmp_path / "b.geojson", driver="GeoJSON")
    forms = {
        "collection": geojson(one, other, crs=crs),
        "geometry": json.dumps(json.loads(shapely.to_geojson(both)) | {"crs": crs}).encode(),
        "bow tie": geojson(
            shapely.Polygon(
                [(386_250, 6_471_700), (386_300, 6_471_750), (386_300, 6_471_700), (386_250, 6_471_750)]
            ),
            both,
            crs=crs,
        ),
        "geopackage": (tmp_path / "a.gpkg").read_bytes(),
        "gdal": (tmp_path / "b.geojson").read_bytes(),
    }
    for name, data in forms.items():
        area = read_area(data, name)
        assert area.crs == "EPSG:32635", name
        assert shapely.area(shapely.symmetric_difference(area.shape, both)) < 1e-6, name


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not a GeoJSON object"),
        (b"{}", "type"),
        (b'{"type":"Feature","geometry":null}', "holds no polygon"),
        (b'{"type":"Point","coordinates":[1,2]}', "holds no polygon"),
        (b'{"type":"Polygon","coordinates":"x"}', "no area of interest"),
        (
            geojson(shapely.box(0, 0, 1, 1), crs={"properties": {"name": "EPSG:nothing"}}),
            "no coordinate reference",
        ),
        (b"SQLite format 3\0" + bytes(600), "damaged"),
        (b"\0\0\x27\x0a" + bytes(96), r"is a shapefile.* `ogr2ogr area\.gpkg 'my area\.json'`"),
        (
            b"PK\3\4" + bytes(26) + b"area.shp",
            r"is a shapefile.* `ogr2ogr area\.gpkg '/vsizip/my area\.json'`",
        ),
        (
            geojson(shapely.box(386_250, 6_471_700, 386_300, 6_471_750)),
            r": 386300, 6471700 is no longitude and latitude, and it names no `crs`.* \`ogr2ogr -s_srs",
        ),
        (
            geojson(shapely.box(3, 50, 4, 51), shapely.box(60, 150, 61, 151)),
            ": 61, 150 is no longitude and latitude.*swap the two: longitude comes first",
        ),
        (
            geojson(shapely.box(0, 0, 1, 91), crs={"properties": {"name": "EPSG:4326"}}),
            "1, 91 is no longitude and latitude, as EPSG:4326, which it names, has them",
        ),
    ],
)
def test_what_is_no_area_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_area(data, "folder/my area.json")
    assert "folder/my area.json" in str(caught.value)


def test_longitudes_may_be_counted_on_past_the_180th_meridian() -> None:
    assert read_area(geojson(shapely.box(178, -18, 183, -16)), "fiji.json").shape.bounds[2] == 183


def test_a_geopackage_of_two_layers_or_of_no_crs_is_refused(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)])
    frame.to_file(tmp_path / "x.gpkg", layer="a")
    with pytest.raises(ValueError, match="says nothing of where on Earth"):
        read_area((tmp_path / "x.gpkg").read_bytes(), "x.gpkg")
    frame.to_file(tmp_path / "x.gpkg", layer="b")
    with pytest.raises(ValueError, match="2 tables with geometries"):
        read_area((tmp_path / "x.gpkg").read_bytes(), "x.gpkg")


def geopackage(*blobs: object, crs: object = 4326, organization: object = "EPSG") -> bytes:
    """A GeoPackage with these as its geometries, whatever they are."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        database.execute(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id, definition)"
        )
        database.execute("CREATE TABLE areas (geometry)")
        database.execute("INSERT INTO gpkg_geometry_columns VALUES ('areas', 'geometry', 1)")
        database.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (1, ?, ?, 'no CRS')", (organization, crs))
        database.executemany("INSERT INTO areas VALUES (?)", [(blob,) for blob in blobs])
        database.commit()
        return database.serialize()


def blob_of(shape: Any) -> bytes:
    return b"GP\0\1" + bytes(4) + bytes(shapely.to_wkb(shape))


def ring(*corners: tuple[float, float]) -> Any:
    return shapely.polygons([*corners, corners[0]])


@pytest.mark.parametrize("blob", [b"GP", b"GP\0\1", b"GP\0\1" + bytes(4), b"GP\0\x0f" + bytes(99), "GP", 7])
def test_a_geometry_that_is_none_is_refused_by_its_files_name(blob: object) -> None:
    with pytest.raises(ValueError, match=r"a\.gpkg is no area of interest"):
        read_area(geopackage(blob_of(shapely.box(0, 0, 1, 1)), blob), "a.gpkg")


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_coordinates_without_end_are_refused(wrong: float) -> None:
    shape = ring((0, 0), (0, 1), (1, wrong))
    with pytest.raises(ValueError, match=r"a\.gpkg is no area of interest"):
        read_area(geopackage(blob_of(shape)), "a.gpkg")


POSITIONS = st.tuples(st.floats(), st.floats()) | st.tuples(st.floats(-180, 180), st.floats(-90, 90))
SHAPES = st.lists(POSITIONS, min_size=3, max_size=6).map(lambda corners: ring(*corners))
BLOBS = (
    st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda rest: b"GP" + rest)
    | SHAPES.map(blob_of)
    | st.none()
    | st.text(max_size=9)
    | st.integers(0, 9)
)
GEOPACKAGES = st.builds(
    lambda blobs, crs, organization: geopackage(*blobs, crs=crs, organization=organization),
    st.lists(BLOBS, min_size=1, max_size=4),
    st.sampled_from([4326, 4326, 32635, 10**12, "x", None]),
    st.sampled_from(["EPSG", "EPSG", "mine", None, 7]),
)
WHOLE = geopackage(blob_of(shapely.box(24, 58, 25, 59))), geojson(shapely.box(24, 58, 25, 59))
DAMAGED = st.builds(
    lambda data, at, byte: data[: at % len(data)] + byte + data[at % len(data) + 1 :],
    st.sampled_from(WHOLE),
    st.integers(0, 1 << 20),
    st.binary(max_size=3),
)
DOCUMENTS = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "coordinates", "geometry", "geometries", "features", "crs", "properties", "name"]
            ),
            inner | st.sampled_from(["Polygon", "Feature", "FeatureCollection", "GeometryCollection"]),
            max_size=4,
        )
    ),
).map(lambda document: json.dumps(document).encode())


@settings(max_examples=300, deadline=None)
@given(GEOPACKAGES | DAMAGED | DOCUMENTS)
def test_any_file_is_an_area_or_is_refused_in_words(data: bytes) -> None:
    with suppress(ValueError):
        area = read_area(data, "any.file")
        assert area.shape.is_valid
        assert np.isfinite(area.shape.bounds).all()
        area.on_raster(GEOREF, 4000, 4000)


def test_a_file_nested_deeper_than_anything_is_refused() -> None:
    deep = b'{"type":"FeatureCollection","features":[' * 400 + b"]}" * 400
    with pytest.raises(ValueError, match="deep"):
        read_area(deep, "deep.json")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_pixel_of_the_area_is_in_a_window_and_no_window_is_idle(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(50, 3000)), data.draw(st.integers(50, 3000))
    corners = data.draw(
        st.lists(st.tuples(st.floats(0, width), st.floats(0, height)), min_size=3, max_size=7)
    )
    shape = shapely.intersection(shapely.MultiPoint(corners).convex_hull, shapely.box(0, 0, width, height))
    if shape.area < 1:
        return
    area = RasterArea(shape, width, height)
    grid, numbers = area.windows(256, 32)
    boxes = [
        shapely.box(w.x, w.y, w.x + w.width, w.y + w.height) for w in (grid[n] for n in numbers.tolist())
    ]
    assert shapely.difference(shape, shapely.union_all(boxes)).area < 0.1
    assert shapely.intersects(shape, np.array(boxes)).all()
    assert len(numbers) <= len(grid)


def test_windows_far_from_a_ragged_area_are_not_read() -> None:
    shape = shapely.MultiPolygon([shapely.box(10, 10, 60, 60), shapely.box(9000, 9000, 9050, 9060)])
    grid, numbers = RasterArea(shape, 10_000, 10_000).windows(512, 64)
    assert len(grid) > 300
    assert len(numbers) <= 5


def test_instances_belong_to_one_of_two_neighbouring_areas() -> None:
    masks = blobs(300, 1000, 1000, seed=2)
    halves = [RasterArea(shapely.box(x, 0, x + 500.003, 1000), 1000, 1000) for x in (-0.003, 500)]
    left, right = (half.keeps(masks) for half in halves)
    assert (left ^ right).all()
    centres = masks.x + masks.width / 2
    assert left[centres < 450].all()
    assert right[centres > 550].all()
    nothing = rle_masks([np.zeros((3, 3), bool)], [(5, 5)])
    assert not halves[0].keeps(nothing).any()


def test_an_area_in_another_crs_bends_with_the_map() -> None:
    # A parallel over ten degrees is far from straight in UTM.
    area = Area(shapely.box(22, 58, 32, 58.0001), "OGC:CRS84")
    middle = Georef("EPSG:32635", (1.0, 0.0, 499_900.0, 0.0, -1.0, 6_429_000.0))
    found = area.on_raster(middle, 200, 2000)
    assert found is not None
    assert found.shape.area == pytest.approx(200 * 11.1, rel=0.05)
