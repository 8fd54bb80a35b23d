"""JPEGs decoded to a part of their size: large enough, the same picture, the same everywhere."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from condinst.config import FixedScale, InputConfig
from condinst.preprocess import prepare
from pipeline import tables
from pipeline.children import Children
from pipeline.decode import DecodeLimits, decode, jpeg_size
from pipeline.engine import run_local
from tests.job import settings_of, start
from tests.tiny import encoded, picture, tiny_weights

LIMITS = DecodeLimits()
sides = st.integers(16, 200)


def jpeg(height: int, width: int, orientation: int = 1, mode: str = "RGB", seed: int = 0) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(picture(seed, height, width)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@given(height=sides, width=sides, part=st.floats(0.02, 1.5), orientation=st.integers(1, 8))
def test_it_is_never_smaller_than_asked_and_halved_as_often_as_that_allows(
    height: int, width: int, part: float, orientation: int
) -> None:
    data = jpeg(height, width, orientation)
    full = decode(data, LIMITS).shape[:2]
    assert jpeg_size(data) == full
    least = (max(1, round(full[0] * part)), max(1, round(full[1] * part)))
    got = decode(data, LIMITS, least).shape[:2]
    (by,) = [by for by in (1, 2, 4, 8) if got == (-(-full[0] // by), -(-full[1] // by))]
    assert by == 1 or (got[0] >= least[0] and got[1] >= least[1])
    if by < 8:
        smaller = (-(-full[0] // (2 * by)), -(-full[1] // (2 * by)))
        assert smaller[0] < least[0] or smaller[1] < least[1]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_it_is_the_same_picture(mode: str, orientation: int) -> None:
    data = jpeg(480, 640, orientation, mode)
    config = InputConfig(resize=FixedScale(scale=0.2))
    size = jpeg_size(data)
    assert size is not None
    small = decode(data, LIMITS, (96, 128) if orientation == 1 else (128, 96))
    assert small.shape[0] * 4 == size[0]
    one, other = prepare(decode(data, LIMITS), config), prepare(small, config, size)
    assert (one.size, one.resized) == (other.size, other.resized)
    assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() < 3


def test_children_decode_to_the_same_pixels() -> None:
    data = jpeg(300, 400)
    children = Children(LIMITS)
    try:
        assert (children.decode(data, (60, 80)) == decode(data, LIMITS, (60, 80))).all()
        assert (children.decode(data) == decode(data, LIMITS)).all()
    finally:
        children.close()


def test_a_jobs_rows_are_in_the_images_own_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded(picture(1, 512, 640), "JPEG"))
    (tmp_path / "in" / "b.png").write_bytes(encoded(picture(2, 96, 128)))
    weights = tiny_weights(tmp_path)
    full = settings_of(str(tmp_path / "in"), weights, str(tmp_path / "full"))
    scaled = settings_of(str(tmp_path / "in"), weights, str(tmp_path / "scaled"), decode="scaled")
    assert full.fingerprint() != scaled.fingerprint()
    job = start(scaled)
    run_local(job.settings, job.pending, on_result=lambda result: None)
    rows = tables.open(job.store.uri).images().to_pylist()
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in rows}
    assert sizes == {"a.jpg": (512, 640), "b.png": (96, 128)}
