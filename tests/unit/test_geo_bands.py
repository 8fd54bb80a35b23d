"""Bands to RGB: the right bands, one stretch for the whole raster, nothing measured in a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from pipeline.geo.bands import Colours, Stretch, choose_colours, to_rgb
from pipeline.geo.reader import Pixels, Raster
from pipeline.records import InputRejected, Window
from tests.rasters import opened, terrain, write_raster


def rgb(raster: Raster, colours: Colours, window: Window) -> np.ndarray:
    return to_rgb(raster.read(colours.bands, window), colours, raster.palette(colours.bands[0]))


def test_bytes_stay_as_they_are(tmp_path: Path) -> None:
    bands = terrain(4, 50, 60)
    raster = opened(write_raster(tmp_path / "x.tif", bands))
    colours = choose_colours(raster)
    assert colours == Colours((1, 2, 3), None)
    found = rgb(raster, colours, Window(0, 0, 60, 50))
    assert (found == np.moveaxis(bands[:3], 0, -1)).all()
    assert found.flags.c_contiguous
    asked = choose_colours(raster, (4, 2, 2))
    assert (rgb(raster, asked, Window(0, 0, 60, 50)) == np.moveaxis(bands[[3, 1, 1]], 0, -1)).all()


def test_colours_are_found_by_what_bands_are_declared(tmp_path: Path) -> None:
    import rasterio

    path = write_raster(tmp_path / "x.tif", terrain(4, 20, 20))
    with rasterio.open(path, "r+") as out:
        out.colorinterp = (ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    assert choose_colours(opened(path)).bands == (4, 3, 2)


def test_one_band_is_grey(tmp_path: Path) -> None:
    bands = terrain(1, 30, 30)
    raster = opened(write_raster(tmp_path / "x.tif", bands))
    found = rgb(raster, choose_colours(raster), Window(0, 0, 30, 30))
    assert (found == bands[0][..., None]).all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_deep_samples_are_stretched_between_percentiles_of_the_valid_ones(tmp_path: Path, dtype: str) -> None:
    bands = terrain(3, 400, 300, "int16").astype(dtype)
    bands[1] += 500
    bands[:, :200] = 0  # nodata, half of it
    raster = opened(write_raster(tmp_path / "x.tif", bands, nodata=0))
    colours = choose_colours(raster)
    stretch = colours.stretch
    assert stretch is not None
    low, high = np.percentile(bands[:, 200:].reshape(3, -1), (2, 98), axis=1)
    assert stretch.low == pytest.approx(low.tolist(), rel=0.02)
    assert stretch.high == pytest.approx(high.tolist(), rel=0.02)
    whole = rgb(raster, colours, Window(0, 0, 300, 400))
    scaled = (
        (np.moveaxis(bands, 0, -1) - np.array(stretch.low)) * 255 / (np.array(stretch.high) - stretch.low)
    )
    assert np.abs(whole - np.clip(np.rint(scaled), 0, 255))[200:].max() <= 1
    assert not whole[:200].any()
    # A window is that part of the whole, whatever lies in it.
    assert (rgb(raster, colours, Window(100, 250, 64, 64)) == whole[250:314, 100:164]).all()


def test_the_stretch_comes_from_little_of_a_large_raster(tmp_path: Path) -> None:
    bands = terrain(1, 3000, 4000, "uint16")
    bands[0, :300] += 20_000  # a tenth: above the 98th percentile only for who sees all of the raster
    plain = write_raster(tmp_path / "x.tif", bands, tiled=True, blockxsize=256, blockysize=256)
    cog = write_raster(tmp_path / "c.tif", bands, driver="COG", blocksize=256)
    read = []
    for path in (plain, cog):
        raster = opened(path)
        ask = raster.read

        def counting(b, window, view=None, ask=ask):  # type: ignore[no-untyped-def]
            read.append(window.width * window.height)
            return ask(b, window, view)

        raster.read = counting  # type: ignore[method-assign]
        read.clear()
        stretch = choose_colours(raster).stretch
        assert stretch == choose_colours(opened(path)).stretch
        assert stretch is not None
        assert stretch.high[0] > 20_000
        assert stretch.low[0] == pytest.approx(np.percentile(bands, 2), rel=0.2) or path is cog
        assert sum(read) <= 2**20 + 2 * 256 * 256


def test_a_palette_is_looked_up_and_shallow_samples_are_widened(tmp_path: Path) -> None:
    import rasterio

    index = terrain(1, 20, 20) % 3
    path = write_raster(tmp_path / "p.tif", index)
    table = {0: (9, 8, 7, 255), 1: (200, 100, 50, 255), 2: (1, 2, 3, 255)}
    with rasterio.open(path, "r+") as out:
        out.write_colormap(1, table)
    raster = opened(path)
    found = rgb(raster, choose_colours(raster), Window(0, 0, 20, 20))
    assert (found == np.array([table[value][:3] for value in range(3)])[index[0]]).all()
    bits = opened(write_raster(tmp_path / "b.tif", index // 2, nbits=1))
    assert set(rgb(bits, choose_colours(bits), Window(0, 0, 20, 20)).ravel().tolist()) == {0, 255}
    white = opened(write_raster(tmp_path / "w.tif", index, photometric="miniswhite"))
    assert (rgb(white, choose_colours(white), Window(0, 0, 20, 20))[..., 0] == 255 - index[0]).all()


def test_what_is_not_finite_is_black_and_changes_no_percentile(tmp_path: Path) -> None:
    bands = terrain(1, 64, 64, "float32")
    clean = choose_colours(opened(write_raster(tmp_path / "a.tif", bands))).stretch
    bands[0, 3, 5], bands[0, 3, 6] = np.nan, np.inf
    raster = opened(write_raster(tmp_path / "b.tif", bands))
    colours = choose_colours(raster)
    assert clean is not None
    assert colours.stretch is not None
    assert colours.stretch.low == pytest.approx(clean.low, rel=0.01)
    assert not rgb(raster, colours, Window(5, 3, 2, 1)).any()


def test_flat_and_empty_rasters_have_a_stretch_too(tmp_path: Path) -> None:
    flat = opened(write_raster(tmp_path / "a.tif", np.full((1, 32, 32), 700, "uint16")))
    assert set(rgb(flat, choose_colours(flat), Window(0, 0, 32, 32)).ravel().tolist()) == {0}
    empty = opened(write_raster(tmp_path / "b.tif", np.zeros((1, 32, 32), "uint16"), nodata=0))
    assert choose_colours(empty).stretch == Stretch((0.0,), (65535.0,))
    assert not empty.read((1,), Window(0, 0, 32, 32)).valid.any()


def test_bands_that_are_not_there_are_refused(tmp_path: Path) -> None:
    raster = opened(write_raster(tmp_path / "x.tif", terrain(2, 8, 8)))
    with pytest.raises(ValueError, match="asks for band 3; the raster has 2"):
        choose_colours(raster, (1, 2, 3))
    with pytest.raises(ValueError, match="one band or three"):
        choose_colours(raster, (1, 2))
    complex_ = opened(write_raster(tmp_path / "c.tif", terrain(1, 8, 8).astype("complex64")))
    with pytest.raises(InputRejected, match="complex64"):
        choose_colours(complex_)


def test_every_value_of_a_type_is_stretched_alike() -> None:
    values = np.arange(-(2**15), 2**15, dtype=np.int16).reshape(1, 256, 256)
    valid = np.ones((256, 256), bool)
    stretch = Colours((1,), Stretch((-100.0,), (500.0,)))
    looked_up = to_rgb(Pixels(values, valid), stretch)
    assert (looked_up == to_rgb(Pixels(values.astype(np.int32), valid), stretch)).all()
    assert (np.diff(looked_up[..., 0].ravel().astype(int)) >= 0).all()
