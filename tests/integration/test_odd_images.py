"""Real files: every odd, broken or hostile one ends as its manifest says, every good one as its pixels."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from pipeline.decode import DecodeLimits, decode, probe

SECONDS = 30
MEMORY_KIB = 2 * 2**20

# A child for each file: a hang, a crash or a huge allocation is then the failure of that file alone.
CHILD = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected
with open(sys.argv[1], "rb") as file:
    data = file.read()
try:
    height, width, channels = decode(data, DecodeLimits()).shape
    outcome = {"status": "pixels", "size": [width, height]}
except InputRejected as error:
    outcome = {"status": str(error.status), "reason": error.reason}
outcome["memory_kib"] = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps(outcome))
"""


def outcome_of(path: Path) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"status": f"still running after {SECONDS} s"}
    if done.returncode != 0:
        return {"status": f"process ended with {done.returncode}", "stderr": done.stderr[-500:]}
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def size_of(entry: dict[str, Any]) -> list[int]:
    pillow, gdal = entry["pil"], entry["rio"]
    size: list[int] = pillow.get("size_after_exif") or pillow.get("size") or gdal["size"]
    return size


def is_as_expected(entry: dict[str, Any], outcome: dict[str, Any]) -> bool:
    """Hold an outcome against the manifest; where its two readers disagree, against docs/inputs.md."""
    if outcome.get("memory_kib", 0) > MEMORY_KIB:
        return False
    expected = entry["expected"]
    if expected == "reader-dependent":
        # A file is read with the reader of its format, and whole or not at all: what GDAL hands out of
        # a damaged file with the rest filled in is refused, what only Pillow lacks a layout for is read.
        reader = entry["rio"] if entry["rio"].get("driver") == "GTiff" else entry["pil"]
        expected = "decode" if reader["ok"] else "reject"
    if expected == "decode":
        return outcome["status"] == "nodata" or outcome.get("size") == size_of(entry)
    return outcome["status"] in ("corrupt", "unsupported", "too_large") and bool(outcome["reason"])


def test_every_odd_image_ends_as_its_manifest_expects(odd_images_dir: Path) -> None:
    entries = json.loads((odd_images_dir / "manifest.json").read_text())["files"]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda entry: outcome_of(odd_images_dir / entry["file"]), entries))
    wrong = [
        f"{entry['file']} ({entry['expected']}): {outcome}"
        for entry, outcome in zip(entries, outcomes, strict=True)
        if not is_as_expected(entry, outcome)
    ]
    assert entries
    assert not wrong, "\n".join(wrong)


def test_every_photograph_is_read_as_pillow_reads_it(data_dir: Path) -> None:
    paths = sorted(path for path in data_dir.rglob("*.jpg") if "odd-images" not in path.parts)
    if not paths:
        pytest.skip("no photographs in DATA_DIR")
    for number, path in enumerate(paths):
        data = path.read_bytes()
        pixels = decode(data, DecodeLimits())
        header = probe(data[:65536])
        assert sorted((header.width, header.height)) == sorted(pixels.shape[:2]), path
        if number % 10 == 0:
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(pixels, expected), path


def test_every_raster_gives_the_bands_that_it_declares(data_dir: Path) -> None:
    paths = sorted(path for path in data_dir.rglob("*.tif") if "odd-images" not in path.parts)
    if not paths:
        pytest.skip("no rasters in DATA_DIR")
    for path in paths:
        pixels = decode(path.read_bytes(), DecodeLimits())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                bands = source.read([1, 2, 3] if source.count >= 3 else [1])
                valid = source.dataset_mask() > 0
        assert pixels.shape == (*bands.shape[1:], 3), path
        assert (pixels[~valid] == 0).all(), path
        if bands.dtype == np.uint8:
            assert np.array_equal(pixels[valid], np.moveaxis(bands, 0, -1)[valid]), path
        else:
            # Dark in its words of 16 bits, not dark as an image: a few glints do not set the scale.
            assert np.percentile(pixels[valid], 99.6) >= 128, path
