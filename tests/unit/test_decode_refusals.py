"""What is refused, with which status and reason, and how decoding conducts itself meanwhile."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.decode import DecodeLimits, decode, probe
from pipeline.records import InputRejected, Status
from tests.unit.image_files import (
    FILES,
    LIMITS,
    attempt,
    encode,
    photo,
    rejection,
    tiff_of,
)

# --- damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_cut_file_is_refused_or_whole(name: str, share: float) -> None:
    """Never a picture with its missing part filled in."""
    data = FILES[name]
    outcome = attempt(data[: int(share * len(data))], LIMITS)
    if isinstance(outcome, InputRejected):
        assert outcome.status in (Status.CORRUPT, Status.UNSUPPORTED)
    else:
        assert np.array_equal(outcome, decode(data, LIMITS))


@pytest.mark.parametrize("missing", [0, 1, 5, 12])
def test_a_jpeg2000_cut_between_tiles_is_refused(missing: int) -> None:
    """The decoder itself leaves these tiles grey without a word."""
    data = FILES["j2k tiles"]
    starts = [i for i in range(len(data) - 12) if data[i : i + 4] == b"\xff\x90\0\x0a"]
    if missing == 0:
        assert len(starts) == 9
        assert decode(data, LIMITS).shape == (70, 90, 3)
    else:
        cut = starts[max(0, len(starts) - missing)]
        assert rejection(data[:cut]).status is Status.CORRUPT
        assert rejection(data[:cut] + b"\xff\xd9").status is Status.CORRUPT


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg cmyk"])
@pytest.mark.parametrize("cut", [30, 200, 900])
def test_a_cut_jpeg_with_an_end_marker_is_refused(name: str, cut: int) -> None:
    assert rejection(FILES[name][:-cut] + b"\xff\xd9").status is Status.CORRUPT


def test_junk_around_a_jpegs_data_is_skipped_but_not_damage_behind_it() -> None:
    data = FILES["jpeg"]
    table = data.index(b"\xff\xdb")
    junk = data[:table] + b"junk\xff\0\x12" + data[table:]
    assert np.array_equal(decode(junk, LIMITS), decode(data, LIMITS))
    assert rejection(junk[:-300] + b"\xff\xd9").status is Status.CORRUPT
    padded = data[:-2] + b"\x55" * 9 + data[-2:] + b"trailing"
    assert np.array_equal(decode(padded, LIMITS), decode(data, LIMITS))


def test_a_damaged_png_is_refused() -> None:
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 0xFF
    assert rejection(bytes(data)).status is Status.CORRUPT


SIGNATURES = [b"", *sorted({data[:n] for data in FILES.values() for n in (4, 14, 40, 200)})]


SMALL = DecodeLimits(pixels=10**6)


@given(start=st.sampled_from(SIGNATURES), rest=st.binary(max_size=400))
@settings(max_examples=400, deadline=None)
def test_any_bytes_end_as_pixels_or_as_a_rejection(start: bytes, rest: bytes) -> None:
    assert_presentable(attempt(start + rest, SMALL))


@given(name=st.sampled_from(sorted(FILES)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_end_as_pixels_or_as_a_rejection(name: str, data: st.DataObject) -> None:
    damaged = bytearray(FILES[name])
    where = st.integers(0, len(damaged) - 1) | st.integers(0, 200)
    for position in data.draw(st.lists(where, min_size=1, max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    outcome = attempt(bytes(damaged), SMALL)
    assert_presentable(outcome)
    assert str(attempt(bytes(damaged), SMALL)) == str(outcome)  # the tables of two runs must be equal


def assert_presentable(outcome: np.ndarray | InputRejected) -> None:
    if isinstance(outcome, np.ndarray):
        assert outcome.shape[2:] == (3,)
        return
    assert 0 < len(outcome.reason) <= 300
    assert all(part not in outcome.reason for part in ("\n", "/vsimem", " at 0x"))


def test_nothing_is_an_error_of_its_own() -> None:
    error = rejection(b"")
    assert (error.status, error.reason) == (Status.CORRUPT, "the file is empty")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "XML"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"P6\n1 1\n255\nabc", "netpbm"),
        (b"hello world", "68 65 6c 6c 6f"),
        (b"RIFF\0\0\0\0WAVEfmt ", "RIFF"),
    ],
)
def test_other_formats_are_named(data: bytes, word: str) -> None:
    error = rejection(data)
    assert error.status is Status.UNSUPPORTED
    assert word in error.reason
    assert "JPEG 2000" in error.reason  # and what is read


# --- limits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_limit_of_pixels_is_exact(name: str) -> None:
    header = probe(FILES[name])
    pixels = header.width * header.height
    assert decode(FILES[name], DecodeLimits(pixels=pixels)).size == 3 * pixels
    error = rejection(FILES[name], DecodeLimits(pixels=pixels - 1))
    assert error.status is Status.TOO_LARGE
    assert f"{header.width}x{header.height}" in error.reason
    assert rejection(FILES[name], DecodeLimits(bytes=len(FILES[name]) - 1)).status is Status.TOO_LARGE


def huge(name: str) -> bytes:
    """A small file whose header tells of billions of pixels."""
    data = bytearray(FILES[name])
    if name.startswith("jpeg"):
        frame = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
        data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    elif name == "png":
        data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    elif name == "bmp":
        data[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31 - 1))
    elif name == "gif":
        data[6:10] = b"\xff\xff\xff\xff"
    elif name == "j2k tiles":
        data[8:16] = struct.pack(">II", 2**31, 2**31)
    return bytes(data)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "bmp", "gif", "j2k tiles"])
def test_a_bomb_is_refused_by_its_header(name: str) -> None:
    assert rejection(huge(name)).status is Status.TOO_LARGE


def test_a_gif_frame_beyond_its_screen_counts() -> None:
    data = bytearray(FILES["gif"])
    frame = data.index(b",", 13 + (3 << ((data[10] & 7) + 1)))
    data[frame + 5 : frame + 9] = struct.pack("<HH", 300, 200)
    assert (probe(bytes(data)).width, probe(bytes(data)).height) == (300, 200)
    assert rejection(bytes(data), DecodeLimits(pixels=300 * 200 - 1)).status is Status.TOO_LARGE


@pytest.mark.parametrize(
    "tags",
    [
        {"t256": 65535, "t257": 65535},
        {"t256": 900, "t257": 900, "t277": 65535},  # bands
        {"t256": 64, "t257": 64, "t322": 2**20, "t323": 2**20},  # one huge tile
        {"t256": 10**8, "t257": 2, "t277": 12},
    ],
)
def test_a_tiff_costs_what_its_bands_and_blocks_cost(tags: dict[str, int]) -> None:
    assert rejection(tiff_of(**tags)).status is Status.TOO_LARGE


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = FILES["jpeg progressive"]
    last = data.rindex(b"\xff\xda")
    error = rejection(data[:-2] + data[last:-2] * 300 + b"\xff\xd9")
    assert error.status is Status.TOO_LARGE
    assert "scans" in error.reason


# --- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_probe_tells_format_and_size_without_the_pixels(name: str) -> None:
    header = probe(FILES[name])
    decoded = decode(FILES[name], LIMITS)
    assert (header.height, header.width) == decoded.shape[:2]
    assert header.format == {"jp2": "JPEG 2000", "j2k": "JPEG 2000", "webp": "WebP"}.get(
        name.split()[0], name.split()[0].upper()
    )


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff big", "webp", "bmp", "gif", "jp2"])
def test_probe_needs_the_beginning_only(name: str) -> None:
    assert probe(FILES[name][:700]) == probe(FILES[name])


# --- conduct ----------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other() -> None:
    names = sorted(FILES) * 6
    alone = {name: decode(FILES[name], LIMITS) for name in FILES}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: decode(FILES[name], LIMITS), names))
    assert all(np.array_equal(pixels, alone[name]) for name, pixels in zip(names, together, strict=True))


def test_decoders_say_nothing_on_stderr() -> None:
    apng = bytearray(encode(photo(), "PNG", save_all=True, append_images=[Image.fromarray(photo())]))
    at = apng.index(b"acTL")
    apng[at + 4 : at + 8] = b"\0\0\0\0"
    lab = tiff_of(t256=1, t257=1, t258=8, t262=8, t277=99)
    code = (
        "import sys\nfrom pipeline.decode import *\nfrom pipeline.records import InputRejected\n"
        "for part in sys.stdin.buffer.read().split(b'--next--'):\n"
        "    try: decode(part, DecodeLimits())\n"
        "    except InputRejected: pass\n"
    )
    parts = [
        bytes(apng),
        FILES["tiff lzw"],
        FILES["tiff lzw"][:-300],
        tiff_of(t256=5, t257=5),
        lab,
        *FILES.values(),
    ]
    done = subprocess.run([sys.executable, "-c", code], input=b"--next--".join(parts), capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


def png_of(width: int, height: int, body: bytes) -> bytes:
    """A PNG of 8-bit RGB whose data is what is given, packed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deflated_tiff(unpacked: int) -> bytes:
    """A TIFF of 64 x 64 pixels whose only strip unpacks to far more."""
    packed = zlib.compress(bytes(unpacked), 9)
    tags = {"t256": 64, "t257": 64, "t258": 8, "t259": 8, "t262": 1, "t277": 1, "t278": 64}
    head = tiff_of(**tags, t273=0, t279=0)
    return tiff_of(**tags, t273=len(head), t279=len(packed)) + packed


def huge_jp2() -> bytes:
    data = bytearray(FILES["jp2"])
    for at in (data.index(b"ihdr") + 4, data.index(b"\xff\x51") + 8):  # the box and the code stream
        data[at : at + 8] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    return bytes(data)


BOMBS = {
    "png": png_of(64, 64, bytes(300 << 20)),  # 300 MiB in the place of 12 KiB
    "png that keeps to its header": png_of(60_000, 60_000, bytes(60_000)),
    "tiff": deflated_tiff(300 << 20),
    "webp": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + struct.pack("<I", 2**28 - 1) + bytes(8),
    "jp2": huge_jp2(),
    "gzip": gzip.compress(bytes(300 << 20)),
    "gzipped svg": gzip.compress(b"<svg xmlns='http://www.w3.org/2000/svg'/>" + bytes(300 << 20)),
    "bz2": bz2.compress(bytes(64 << 20)),
    "zip": b"PK\x03\x04" + bytes(100),
}


def test_what_unpacks_to_much_more_costs_no_memory() -> None:
    """Every bomb ends as pixels of its header's size or is refused, and takes less than 200 MiB for it."""
    code = (
        "import json, sys\nfrom pipeline.decode import DecodeLimits, decode\n"
        "from pipeline.records import InputRejected\n"
        "import numpy, rasterio, PIL.Image, simplejpeg\n"
        "bomb = sys.stdin.buffer.read()\n"
        "def outcome(data):\n"
        "    try: return str(decode(data, DecodeLimits(pixels=10**8)).shape)\n"
        "    except InputRejected as error: return error.status\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "def status(field):\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(field))\n"
        "before = status('VmRSS')\n"
        "print(json.dumps([outcome(bomb), (status('VmHWM') - before) // 1024]))\n"
    )
    ends: dict[str, object] = {}
    for name, data in BOMBS.items():
        assert len(data) < 2**20
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, timeout=120)
        assert done.returncode == 0, f"{name}: {done.stderr.decode()[-500:]}"
        outcome, grown = json.loads(done.stdout)
        assert grown < 200, f"{name} took {grown} MiB"
        ends[name] = outcome
    assert ends.pop("png") in ("(64, 64, 3)", "corrupt")
    assert ends.pop("tiff") in ("(64, 64, 3)", "corrupt")
    assert ends.pop("jp2") in ("too_large", "corrupt")
    assert ends == {
        "png that keeps to its header": "too_large",
        "webp": "too_large",
        "gzip": "unsupported",
        "gzipped svg": "unsupported",
        "bz2": "unsupported",
        "zip": "unsupported",
    }
