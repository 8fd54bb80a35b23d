"""Masks on the map: polygons of exactly their pixels, valid, with holes, in any CRS, with true areas."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import Geod, Transformer
from rasterio.features import rasterize

from condinst import rle
from condinst.instances import RleMasks
from pipeline.geo.georef import Georef, crs_name
from pipeline.geo.polygons import footprint, on_map, pixel_polygons, reprojected
from pipeline.geo.rings import trace
from pipeline.geo.simplify import corners, simplified_on_map
from tests.rasters import blobs, rle_masks

CROPS = st.lists(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()), max_size=6
)
PLACES = {
    "EPSG:32635": (0.05, 0.0, 386_200.0, 0.0, -0.05, 6_471_800.0),
    "EPSG:4326": (1e-5, 0.0, 26.7, 0.0, -1e-5, 58.3),
    "EPSG:3857": (0.1, 0.0, 2_972_000.0, 0.0, -0.1, 8_000_000.0),
    "EPSG:2263": (1.0, 0.0, 980_000.0, 0.0, -1.0, 200_000.0),
    "EPSG:3301": (0.05, 0.02, 650_000.0, 0.02, -0.05, 6_470_000.0),
}


def placed(crops: list[np.ndarray]) -> RleMasks:
    return rle_masks(crops, [(3 + 2 * number, 5) for number in range(len(crops))])


@settings(max_examples=300, deadline=None)
@given(CROPS)
def test_polygons_are_valid_and_cover_exactly_the_pixels(crops: list[np.ndarray]) -> None:
    masks = placed(crops)
    shapes = pixel_polygons(masks)
    assert [shape is None for shape in shapes] == [not crop.any() for crop in crops]
    for number, (crop, shape) in enumerate(zip(crops, shapes, strict=True)):
        if shape is None:
            continue
        assert shape.is_valid
        assert shape.area == crop.sum()
        frame = np.zeros((20, 40), bool)
        frame[5 : 5 + crop.shape[0], 3 + 2 * number : 3 + 2 * number + crop.shape[1]] = crop
        assert (rasterize([shape], out_shape=frame.shape).astype(bool) == frame).all()


@settings(max_examples=200, deadline=None)
@given(CROPS, st.floats(0.1, 4), st.sampled_from(sorted(PLACES)))
def test_outlines_with_fewer_corners_stay_near_and_whole(
    crops: list[np.ndarray], pixels: float, crs: str
) -> None:
    masks = placed(crops)
    exact = on_map(masks, Georef(crs, PLACES[crs]), crs)
    found = simplified_on_map(exact, masks.area, pixels)
    side = abs(np.linalg.det(np.array(PLACES[crs]).reshape(2, 3)[:, :2])) ** 0.5
    for shape, whole in zip(found.geometry, exact.geometry, strict=True):
        assert (shape is None) == (whole is None)
        if shape is not None:
            assert shape.is_valid
            assert shape.geom_type == whole.geom_type
            assert len(shapely.get_parts(shape)) == len(shapely.get_parts(whole))
            assert shape.hausdorff_distance(whole) <= pixels * side * 1.01
    assert corners(found.geometry) <= corners(exact.geometry)
    np.testing.assert_array_equal(found.bounds, shapely.bounds(found.geometry))
    np.testing.assert_array_equal(found.area, exact.area)


@settings(max_examples=200, deadline=None)
@given(CROPS)
def test_rings_turn_at_every_corner_and_never_meet_themselves(crops: list[np.ndarray]) -> None:
    rings = trace(placed(crops))
    for ring in range(len(rings.mask)):
        part = slice(*rings.bounds[ring : ring + 2])
        corners = np.column_stack([rings.x[part], rings.y[part]])
        assert (corners[0] == corners[-1]).all()
        assert len({*map(tuple, corners[1:].tolist())}) == len(corners) - 1
        steps = np.diff(corners, axis=0)
        assert ((steps != 0).sum(axis=1) == 1).all()
        assert ((steps[1:] == 0) != (steps[:-1] == 0)).all()


@pytest.mark.parametrize(
    ("picture", "polygons", "holes"),
    [
        ("#. .#", 2, 0),
        ("### #.# ###", 1, 1),
        ("#### #.## ##.# ####", 1, 2),
        (".#. #.# .#.", 4, 0),
        ("##. #.# ###", 1, 0),
        ("##### #...# #.#.# #...# #####", 2, 1),
        ("##### #...# #.#.# #..## #####", 2, 1),
        ("###.. #.#.. ##.## ..#.# ..###", 1, 1),
    ],
)
def test_parts_and_holes_are_told_apart(picture: str, polygons: int, holes: int) -> None:
    crop = np.array([[pixel == "#" for pixel in row] for row in picture.split()])
    (shape,) = pixel_polygons(rle_masks([crop], [(0, 0)]))
    parts = shapely.get_parts(shape)
    expected = shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(crop)])
    assert shape.is_valid
    assert shape.equals(expected)
    assert len(parts) >= polygons
    assert len(parts) == len(shapely.get_parts(expected)) or polygons > 1
    assert shapely.get_num_interior_rings(parts).sum() >= holes


def test_strange_but_lawful_runs_are_read_and_others_refused() -> None:
    masks = RleMasks.empty(2)
    masks.height[:], masks.width[:] = 3, 2
    masks.counts[:] = [rle.from_runs(np.array([0, 2, 0, 3, 1])), rle.from_runs(np.array([6]))]
    assert [None if shape is None else shape.area for shape in pixel_polygons(masks)] == [5, None]
    masks.counts[1] = rle.from_runs(np.array([1, 4]))
    with pytest.raises(ValueError, match="mask 1 does not have the 6 pixels"):
        pixel_polygons(masks)


@pytest.mark.parametrize("crs", PLACES)
def test_areas_are_those_of_the_ellipsoid_whatever_the_map_distorts(crs: str) -> None:
    masks = blobs(30, 4000, 4000)
    georef = Georef(crs, PLACES[crs]).scaled(10, 10)  # Geod's own error is some square centimetres
    found = on_map(masks, georef)
    geod = Geod(ellps="GRS80" if crs in ("EPSG:2263", "EPSG:3301") else "WGS84")
    ground = Transformer.from_crs(crs, crs_name(crs), always_xy=True)
    to_degrees = Transformer.from_crs(crs, ground.source_crs.geodetic_crs, always_xy=True)
    for shape, area in zip(found.geometry, found.area, strict=True):
        degrees = shapely.transform(shape, lambda p: np.column_stack(to_degrees.transform(*p.T)))
        exact, _ = geod.geometry_area_perimeter(shapely.orient_polygons(degrees))
        assert area == pytest.approx(abs(exact), rel=1e-5)


@pytest.mark.parametrize("crs", PLACES)
@pytest.mark.parametrize("target", [None, "EPSG:4326", "EPSG:3857"])
def test_a_pixel_is_where_its_mask_and_its_polygon_say(crs: str, target: str | None) -> None:
    masks = blobs(40, 4000, 4000, seed=1)
    georef = Georef(crs, PLACES[crs])
    found = on_map(masks, georef, target)
    assert shapely.is_valid(found.geometry).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(shapely.get_parts(found.geometry))).all()
    assert (found.bounds == shapely.bounds(shapely.from_wkb(found.wkb))).all()
    back = Transformer.from_crs(target or crs, crs, always_xy=True)
    a, b, c, d, e, f = georef.transform
    for shape, pixels in zip(shapely.from_wkb(found.wkb), pixel_polygons(masks), strict=True):
        east, north = back.transform(*shapely.get_coordinates(shape).T)
        # By hand, so that the transform is held against another way of computing it.
        inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
        corners = (inverse @ np.array([np.asarray(east) - c, np.asarray(north) - f])).T
        true = shapely.get_coordinates(pixels)
        assert len(corners) == len(true)
        nearest = shapely.distance(shapely.points(corners), shapely.multipoints(true))
        assert nearest.max() < 0.01


def test_a_map_that_does_not_reach_there_is_refused() -> None:
    georef = Georef("EPSG:4326", (0.1, 0.0, -180.0, 0.0, -0.1, 90.0))
    with pytest.raises(ValueError, match="cannot be given in EPSG:3301"):
        footprint(georef, 3600, 1800, "EPSG:3301")
    assert footprint(georef, 3600, 1800).bounds == pytest.approx((-180, -90, 180, 90))
    with pytest.raises(ValueError, match="no coordinate reference system"):
        crs_name("EPSG:nothing")


def test_polygons_taken_to_another_map_stay_polygons() -> None:
    """Also where making them valid leaves lines, and where they have no place there."""
    spiked = shapely.Polygon([(24, 58), (25, 58), (25, 58.5), (26, 58.5), (25, 58.5), (25, 59), (24, 59)])
    line = shapely.Polygon([(24, 58), (25, 58), (25, 58)])
    far = shapely.box(-180, -90, -179, -80)
    shapes = np.array([shapely.box(24, 58, 25, 59), spiked, line, far, None], dtype=object)
    moved = reprojected(shapes, "OGC:CRS84", "EPSG:32635")
    assert shapely.is_valid(moved[:2]).all()
    assert [shape.geom_type for shape in moved[:2]] == ["Polygon", "Polygon"]
    assert moved[1].area == pytest.approx(moved[0].area, rel=0.01)
    assert moved[2] is None
    assert moved[4] is None
    assert moved[3] is None or np.isfinite(moved[3].bounds).all()


def test_a_pixel_on_the_180th_meridian_is_no_larger_than_others() -> None:
    georef = Georef("EPSG:4326", (1e-3, 0.0, 180.0, 0.0, -1e-3, 0.0))
    here, there = georef.pixel_areas(np.array([0.0, 1000.0]), np.array([0.0, 0.0]))
    assert here == pytest.approx(there, rel=1e-6)
    local = 'LOCAL_CS["site",UNIT["foot",0.3048]]'
    assert Georef(local, (2.0, 0, 0, 0, -2.0, 0)).metres(10, 10) == pytest.approx(0.6096)


def test_a_code_stands_for_a_crs_only_where_it_means_the_same() -> None:
    from pyproj import CRS

    assert crs_name(CRS.from_epsg(26911).to_wkt()) == "EPSG:26911"
    assert crs_name("EPSG:32635+5773") == "EPSG:32635"
    own = CRS.from_proj4("+proj=tmerc +lat_0=3 +lon_0=7 +ellps=GRS80 +units=m")
    assert CRS.from_user_input(crs_name(own.to_wkt())) == CRS.from_wkt(own.to_wkt()).to_2d()


def test_moving_and_scaling_a_raster_keeps_its_place() -> None:
    georef = Georef("EPSG:3301", PLACES["EPSG:3301"])
    x, y = np.array([10.0, 500.5]), np.array([20.0, 7.25])
    east, north = georef.ground(x, y)
    for other, px, py in ((georef.scaled(4, 2), x / 4, y / 2), (georef.shifted(8, 3), x - 8, y - 3)):
        assert np.allclose(other.ground(px, py), (east, north), atol=1e-6)
        assert np.allclose(other.pixel(east, north), (px, py), atol=1e-4)
