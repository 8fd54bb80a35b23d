"""Windows read as they were planned, or not at all: of files that others put another in the place of."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.decode import DecodeLimits, decode
from pipeline.exif import stored_orientation
from pipeline.manifest import InputSource, read_shard
from pipeline.records import ImageRef, InputRejected, Status, Window
from pipeline.storage import Store
from pipeline.tiled.children import RasterChildren
from pipeline.tiled.inspect import look_at
from pipeline.tiled.pixels import WindowPixels, window_pixels
from pipeline.tiled.planning import freeze_tiled, open_windows
from pipeline.tiled.reading import Elsewhere, WindowReader
from pipeline.tiled.settings import Tiling
from tests.rasters import opened, terrain, write_raster

LIMITS = DecodeLimits()
TILING = Tiling(size=256, overlap=0)


@pytest.fixture(params=["here", "in a child"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Elsewhere | None]:
    if request.param == "here":
        yield None
        return
    with closing(RasterChildren(LIMITS)) as children:
        yield children.window


def windows_of(source: InputSource, output: Path) -> list[ImageRef]:
    """The windows of a job's first shard."""
    store = Store.open(str(output))
    plan = freeze_tiled((source,), store, 100, 0, TILING, LIMITS)
    assert plan.windows is not None
    return read_shard(open_windows(store), plan.windows, 0)


def read(reader: WindowReader, ref: ImageRef, elsewhere: Elsewhere | None = None) -> WindowPixels:
    return reader.read(ref, LIMITS, lambda data: decode(data, LIMITS), elsewhere)


def replaced(path: Path, dtype: str = "uint8") -> None:
    """Another raster of the same layout under the same name."""
    write_raster(path.with_suffix(".new"), terrain(3, 512, 512, dtype, seed=9)).replace(path)


def listed(folder: Path, how: str) -> InputSource:
    """The folder as an input, or as a list that tells no etags."""
    if how == "folder":
        return InputSource(str(folder), include=("*.tif",))
    (folder / "list.csv").write_text("uri\na.tif\n")
    return InputSource(str(folder / "list.csv"), manifest=True)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"nbits": 4}, "uint8 of 4 bits, were uint8"),
        ({"photometric": "miniswhite"}, "uint8 where 0 is white, were uint8"),
        ({"photometric": "palette"}, "uint8 with a palette, were uint8"),
    ],
)
def test_samples_that_mean_something_else_are_not_read_as_planned(
    tmp_path: Path, profile: dict[str, Any], said: str
) -> None:
    path = write_raster(tmp_path / "a.tif", terrain(1, 64, 64) % 16)
    raster = opened(path)
    planned = look_at(raster, TILING)
    write_raster(tmp_path / "b.tif", terrain(1, 64, 64) % 16, **profile)
    assert window_pixels(raster, planned, Window(0, 0, 64, 64)).valid is None
    with pytest.raises(InputRejected, match=f"its samples are {said}") as caught:
        window_pixels(opened(tmp_path / "b.tif"), planned, Window(0, 0, 64, 64))
    assert caught.value.status is Status.MISSING
    older = replace(planned, samples=None)
    assert window_pixels(opened(tmp_path / "b.tif"), older, Window(0, 0, 64, 64)).valid is None


@pytest.mark.parametrize("how", ["folder", "list"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_raster_replaced_before_or_between_windows_is_missing(
    tmp_path: Path, elsewhere: Elsewhere | None, before: int, how: str
) -> None:
    path = write_raster(tmp_path / "a.tif", terrain(3, 512, 512))
    refs = windows_of(listed(tmp_path, how), tmp_path / "out")
    with closing(WindowReader((listed(tmp_path, how),))) as reader:
        for ref in refs[:before]:
            assert read(reader, ref, elsewhere).valid is None
        replaced(path)
        with pytest.raises(InputRejected, match="changed since the plan") as caught:
            read(reader, refs[-1], elsewhere)
    assert caught.value.status is Status.MISSING


def png_with_exif_behind_its_pixels(data: bytes) -> bytes:
    """The same PNG with its `eXIf` chunk moved behind the pixels, where other writers put it."""
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    return data[:at] + data[end:-12] + data[at:end] + data[-12:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG behind", "WebP"])
def test_a_photograph_is_cut_upright_whatever_its_format(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    # Noise, so that the pixels take more than what is read of the header.
    Image.fromarray(terrain(3, 200, 300).transpose(1, 2, 0)).save(out, kind.split()[0], exif=exif.tobytes())
    data = out.getvalue()
    (tmp_path / "a.img").write_bytes(png_with_exif_behind_its_pixels(data) if "behind" in kind else data)
    source = InputSource(str(tmp_path), include=("*.img",))
    refs = windows_of(source, tmp_path / "out")
    with closing(WindowReader((source,))) as reader:
        parts = [read(reader, ref) for ref in refs]
    upright = decode(data, LIMITS)
    places = [(ref.window.x, ref.window.y) for ref in refs if ref.window is not None]
    for (x, y), part in zip(places, parts, strict=True):
        expected = upright[y : y + 256, x : x + 256]
        assert (part.rgb[: expected.shape[0], : expected.shape[1]] == expected).all()


@given(st.sampled_from(["PNG", "WebP"]), st.binary(max_size=200), st.binary(max_size=60))
def test_an_orientation_is_found_or_not_whatever_the_bytes(name: str, data: bytes, rest: bytes) -> None:
    start = {"PNG": b"\x89PNG\r\n\x1a\n", "WebP": b"RIFF1234WEBPVP8X\n\0\0\0\x08"}[name]
    for block in (data, start + data, start + data + b"eXIf" + rest, start + data + b"EXIF" + rest):
        assert 1 <= stored_orientation(name, block) <= 8
