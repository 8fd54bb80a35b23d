"""How pixels of every kind become RGB: the rules of docs/inputs.md."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from rasterio.io import MemoryFile

from pipeline.decode import decode
from pipeline.records import Status
from tests.unit.image_files import (
    FILES,
    LIMITS,
    RNG,
    encode,
    geotiff,
    grey,
    photo,
    rejection,
)

SIDES = st.integers(1, 24)


def images(channels: int | None, dtype: Any = np.uint8) -> st.SearchStrategy[np.ndarray]:
    """Random arrays of any small size; None: (height, width)."""
    last = () if channels is None else (channels,)
    return st.tuples(SIDES, SIDES).flatmap(lambda hw: arrays(dtype, (*hw, *last)))


# --- pixels -----------------------------------------------------------------------------------------


LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_deflate"}),
    ("WebP", {"lossless": True}),
    ("JPEG2000", {}),
    ("JPEG2000", {"no_jp2": True}),
]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
@given(rgb=images(3))
@settings(max_examples=25, deadline=None)
def test_rgb_comes_back_as_it_was(format: str, options: dict[str, Any], rgb: np.ndarray) -> None:
    decoded = decode(encode(rgb, format, **options), LIMITS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    assert np.array_equal(decoded, rgb)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "JPEG2000"])
@given(levels=images(None))
@settings(max_examples=25, deadline=None)
def test_grey_is_repeated(format: str, levels: np.ndarray) -> None:
    assert np.array_equal(decode(encode(levels, format), LIMITS), grey(levels))


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"})]
)
@given(bits=images(None, np.bool_))
@settings(max_examples=25, deadline=None)
def test_bilevel_is_black_and_white(format: str, options: dict[str, Any], bits: np.ndarray) -> None:
    assert np.array_equal(decode(encode(bits, format, **options), LIMITS), grey(bits * np.uint8(255)))


@pytest.mark.parametrize("format", ["PNG", "JPEG2000"])
@given(levels=images(None, np.uint16))
@settings(max_examples=25, deadline=None)
def test_sixteen_bits_keep_their_top_eight(format: str, levels: np.ndarray) -> None:
    assert np.array_equal(decode(encode(levels, format), LIMITS), grey((levels >> 8).astype(np.uint8)))


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("TIFF", {}), ("WebP", {"lossless": True, "exact": True}), ("JPEG2000", {})],
)
@given(rgba=images(4), faint=st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_transparent_is_black_and_the_rest_keeps_its_colour(
    format: str, options: dict[str, Any], rgba: np.ndarray, faint: int
) -> None:
    rgba[0, 0, 3] = faint  # at least one pixel is there
    expected = np.where(rgba[..., 3:] > 0, rgba[..., :3], 0)
    assert np.array_equal(decode(encode(rgba, format, **options), LIMITS), expected)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("TIFF", {}), ("WebP", {"lossless": True})])
def test_wholly_transparent_is_nodata(format: str, options: dict[str, Any]) -> None:
    rgba = np.full((5, 6, 4), 200, np.uint8)
    rgba[..., 3] = 0
    assert rejection(encode(rgba, format, **options)).status is Status.NODATA


@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "BMP"])
@given(indices=images(None), colours=arrays(np.uint8, (256, 3)))
@settings(max_examples=25, deadline=None)
def test_a_palette_is_looked_up(format: str, indices: np.ndarray, colours: np.ndarray) -> None:
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    assert np.array_equal(decode(encode(image, format), LIMITS), colours[indices])


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_index_is_black(format: str) -> None:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    first, _, third = [10, 20, 30], 0, [70, 80, 90]
    assert decode(encode(image, format, transparency=1), LIMITS).tolist() == [
        [first, [0, 0, 0], third],
        [third, [0, 0, 0], first],
    ]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@given(rgb=images(3, np.uint16), key=st.tuples(*[st.integers(0, 65535)] * 3))
@settings(max_examples=40, deadline=None)
def test_sixteen_bit_colour_keeps_its_top_eight_and_no_key_colour(
    rgb: np.ndarray, key: tuple[int, int, int]
) -> None:
    """The key would have to be matched in 16 bits; matched in 8 it would take other colours with it."""
    rgb[0, 0] = [(value & 255) << 8 for value in key]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0))
        + png_chunk(b"tRNS", struct.pack(">HHH", *key))
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    assert np.array_equal(decode(data, LIMITS), (rgb >> 8).astype(np.uint8))


def test_cmyk_is_mixed() -> None:
    cmyk = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    inks = cmyk.astype(float) / 255
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    tiff = decode(encode(Image.fromarray(cmyk, "CMYK"), "TIFF"), LIMITS)
    assert np.abs(tiff - expected).max() <= 1.5
    flat = np.broadcast_to(np.array([30, 200, 90, 60], np.uint8), (32, 32, 4)).copy()
    jpeg = decode(encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=100), LIMITS)
    assert np.abs(jpeg.mean(axis=(0, 1)) - 255 * (1 - flat[0, 0, :3] / 255) * (1 - 60 / 255)).max() < 3


def test_lab_white_is_white() -> None:
    white = Image.new("LAB", (8, 8), (255, 128, 128))
    lab = np.zeros((8, 8, 3), np.uint8)
    lab[..., 0] = 255  # TIFF stores a and b signed
    image = Image.frombytes("LAB", white.size, lab.tobytes())
    assert decode(encode(image, "TIFF"), LIMITS).min() >= 253


def test_the_first_picture_counts() -> None:
    first, second = Image.new("RGB", (32, 24), (250, 10, 20)), Image.new("RGB", (32, 24), (0, 200, 0))
    for format in ("MPO", "GIF", "TIFF", "PNG", "WebP"):
        decoded = decode(encode(first.copy(), format, save_all=True, append_images=[second.copy()]), LIMITS)
        assert decoded.shape == (24, 32, 3)
        assert np.abs(decoded.astype(int) - (250, 10, 20)).max() <= 4, format


def test_a_gif_without_palette_is_grey() -> None:
    data = bytearray(encode(Image.fromarray(np.full((1, 1), 1, np.uint8)), "GIF"))
    table = 3 << ((data[10] & 7) + 1)
    data[10] &= 0x7F
    del data[13 : 13 + table]
    decoded = decode(bytes(data), LIMITS)
    assert decoded.shape == (1, 1, 3)
    assert len(set(decoded[0, 0].tolist())) == 1


def test_the_alpha_of_a_bmp_is_not_believed() -> None:
    rgba = np.full((4, 4, 4), 77, np.uint8)
    rgba[..., 3] = 0
    assert (decode(encode(rgba, "BMP"), LIMITS) == 77).all()


# --- orientation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("PNG", {}), ("WebP", {"lossless": True})])
def test_exif_orientation_is_applied(format: str, options: dict[str, Any], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(24, 40), format, exif=exif.tobytes(), **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data, LIMITS), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_is_applied(orientation: int) -> None:
    data = encode(photo(24, 40), "TIFF", tiffinfo={274: orientation})
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data, LIMITS), expected)


@given(block=st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_a_broken_exif_block_costs_nothing(block: bytes) -> None:
    plain = encode(photo(16, 16), "JPEG")
    payload = b"Exif\0\0" + block
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]
    assert sorted(decode(data, LIMITS).shape) == [3, 16, 16]


# --- TIFF and GeoTIFF -------------------------------------------------------------------------------

BANDS = RNG.integers(1, 256, (4, 20, 30), dtype=np.uint8)
RGB = BANDS[:3].transpose(1, 2, 0)


@pytest.mark.parametrize(
    "profile",
    [
        {"photometric": "rgb", "alpha": "no"},  # red, green, blue, infrared
        {"photometric": "rgb", "alpha": "yes"},  # infrared labelled as alpha, as in real collections
        {"photometric": "minisblack"},
        {"photometric": "rgb", "interleave": "band", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"photometric": "rgb", "compress": "zstd", "bigtiff": "yes"},
        {"photometric": "rgb", "compress": "lerc"},
    ],
)
def test_four_bands_give_their_first_three(profile: dict[str, Any]) -> None:
    assert np.array_equal(decode(geotiff(BANDS, **profile), LIMITS), RGB)


def test_two_bands_give_their_first() -> None:
    assert np.array_equal(decode(geotiff(BANDS[:2]), LIMITS), grey(BANDS[0]))


def test_the_declared_order_of_bands_counts() -> None:
    with MemoryFile() as file:
        with file.open(driver="GTiff", height=20, width=30, count=4, dtype="uint8") as out:
            out.write(BANDS)
            out.colorinterp = [
                out.colorinterp[0].__class__[name] for name in ("blue", "green", "red", "undefined")
            ]
        data = bytes(file.read())
    assert np.array_equal(decode(data, LIMITS), RGB[..., ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_nodata_is_black_and_nothing_else_is_nodata(dtype: Any) -> None:
    bands = BANDS[:1].astype(dtype)
    bands[0, :5] = 9
    decoded = decode(geotiff(bands, nodata=9), LIMITS)
    assert (decoded[bands[0] == 9] == 0).all()
    assert np.array_equal(decoded[bands[0] != 9], grey(BANDS[0])[bands[0] != 9])
    assert rejection(geotiff(np.full_like(bands, 9), nodata=9)).status is Status.NODATA


def test_an_internal_mask_is_nodata() -> None:
    mask = np.ones((20, 30), bool)
    mask[3:7, 2:9] = False
    expected = np.where(mask[..., None], RGB, 0)
    assert np.array_equal(decode(geotiff(BANDS[:3], mask=mask), LIMITS), expected)


def test_nan_is_nodata() -> None:
    bands = BANDS[:1].astype(np.float32)
    bands[0, 0] = np.nan
    decoded = decode(geotiff(bands), LIMITS)
    assert (decoded[0] == 0).all()
    assert np.array_equal(decoded[1:], grey(BANDS[0])[1:])
    assert rejection(geotiff(np.full_like(bands, np.nan))).status is Status.NODATA


@pytest.mark.parametrize(("photometric", "flip"), [("miniswhite", 255), ("minisblack", 0)])
def test_white_may_be_zero(photometric: str, flip: int) -> None:
    assert np.array_equal(decode(geotiff(BANDS[:1], photometric=photometric), LIMITS), grey(BANDS[0] ^ flip))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_than_eight_bits_are_widened(bits: int) -> None:
    small = BANDS[:1] >> (8 - bits)
    assert np.array_equal(decode(geotiff(small, nbits=bits), LIMITS), grey(small[0] * (255 // (2**bits - 1))))


@pytest.mark.parametrize("depth", range(8, 17))
def test_undeclared_depth_is_the_smallest_that_holds_the_samples(depth: int) -> None:
    bands = RNG.integers(0, 2**depth, (3, 40, 40), dtype=np.uint16)
    bands[:, 0, 0] = 65535  # a glint
    expected = np.minimum(bands >> (depth - 8), 255).transpose(1, 2, 0)
    assert np.array_equal(decode(geotiff(bands, photometric="rgb"), LIMITS), expected)


def test_declared_depth_counts_even_for_dark_images() -> None:
    bands = RNG.integers(0, 300, (1, 40, 40), dtype=np.uint16)
    assert np.array_equal(decode(geotiff(bands, nbits=12), LIMITS), grey((bands[0] >> 4).astype(np.uint8)))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_other_number_types_follow_the_same_rule(dtype: Any) -> None:
    bands = BANDS[:3].astype(dtype)
    assert np.array_equal(decode(geotiff(bands, photometric="rgb"), LIMITS), RGB)
    if np.issubdtype(dtype, np.signedinteger):
        assert (decode(geotiff(bands - 1000), LIMITS) == 0).all()


def test_floats_up_to_one_are_shares_of_white() -> None:
    assert np.array_equal(
        decode(geotiff((BANDS[:3] / 255).astype(np.float32), photometric="rgb"), LIMITS), RGB
    )


def test_a_sparse_tiff_is_zeros() -> None:
    data = geotiff(np.zeros((3, 512, 512), np.uint8), sparse_ok=True, tiled=True)
    assert len(data) < 2000
    assert decode(data, LIMITS).shape == (512, 512, 3)


def test_layouts_not_read_are_unsupported() -> None:
    preview = encode(photo(), "TIFF", tiffinfo={254: 1, 330: 8})
    dng = encode(photo(), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    jpeg12 = FILES["jpeg"].replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    for data, word in [
        (geotiff(BANDS[:1].astype(np.complex64)), "complex64"),
        (geotiff(BANDS.astype(np.uint16), photometric="cmyk"), "CMYK"),
        (geotiff(BANDS[:3], photometric="icclab"), "photometric"),
        (geotiff(BANDS[:3].astype(np.uint16), photometric="cielab"), "CIELab"),
        (preview, "preview"),
        (dng, "DNG"),
        (jpeg12, "12 bits"),
    ]:
        error = rejection(data)
        assert error.status is Status.UNSUPPORTED
        assert word in error.reason
