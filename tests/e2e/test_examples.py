"""The specs in `examples/` run as they stand on real photographs, and every mask in their tables is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pycocotools import mask as coco

from jobs.check import load
from pipeline import tables

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("condinst")
EXAMPLES = ("mushrooms", "kernels", "nuclei", "aerial")
IMAGES = 6
"""Taken of each of an example's sources, at even distances."""


def some_of(source: Path, target: Path) -> int:
    """Copy a few of a folder's images, and say how many."""
    images = sorted(source.rglob("*.jpg"))
    for path in images[:: max(1, -(-len(images) // IMAGES))]:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return len(list(target.rglob("*.jpg")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_a_row_an_image_and_good_masks(name: str, data_dir: Path, tmp_path: Path) -> None:
    text = (ROOT / "examples" / f"{name}.yaml").read_text()
    assert "../shared/data" in text
    given, spec = tmp_path / "given.yaml", tmp_path / f"{name}.yaml"
    given.write_text(text.replace("../shared/data", str(data_dir)))
    sources = [Path(source.uri) for source in load(given).input]
    if not all(source.is_dir() for source in sources):
        pytest.skip(f"{sources} are not all there")
    wanted = sum(some_of(source, tmp_path / "data" / source.relative_to(data_dir)) for source in sources)
    spec.write_text(text.replace("../shared/data", str(tmp_path / "data")))
    done = subprocess.run(
        [COMMAND, "run", spec, "--local", "--set", "workers.cpus=2"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tables.open(str(tmp_path / "work" / name))
    images = run.images(["image_id", "status", "width", "height", "instances"]).to_pylist()
    assert len(images) == wanted > 0
    assert {row["status"] for row in images} <= {"ok", "empty"}
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in images}
    checked = 0
    for batch in run.batches("instances"):
        for row in batch.to_pylist():
            check_mask(row, *sizes[row["image_id"]])
            checked += 1
    assert checked == sum(row["instances"] for row in images)


def check_mask(row: dict[str, dict[str, int]], height: int, width: int) -> None:
    """The mask lies in its crop and the crop in the image; its area is the row's, in the full frame too."""
    crop = row["mask"]
    decoded = coco.decode({"size": [crop["height"], crop["width"]], "counts": crop["counts"]})
    assert decoded.shape == (crop["height"], crop["width"])
    assert int(decoded.sum()) == row["area"] > 0  # type: ignore[operator]
    assert 0 <= crop["x"] <= width - crop["width"]
    assert 0 <= crop["y"] <= height - crop["height"]
    assert int(coco.area(tables.full_frame_rle(row, height, width))) == row["area"]
