"""A tiled job as a user runs it: plan, try, run twice, status, verify, vacuum, and what tiling changed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from jobs.scenes import write_mosaic
from tests import command
from tests.command import COMMAND

SPEC = """
kind: segment
name: ortho
input: {{uri: {folder}, include: "*.tif"}}
model: {{weights: demo, score_threshold: 0.3, max_instances: 1000, pre_nms_top_k: 100000}}
output: {{uri: {output}}}
tiling: {{size: {size}, overlap: {overlap}}}
shards: {{images: 4}}
"""


def condinst(*arguments: object, cwd: Path, code: int = 0) -> str:
    done = command.condinst(*arguments, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ortho")
    write_mosaic(folder / "in" / "ortho.tif", 5, 1024, 1024)
    for name, size, overlap in (("tiled", 512, 128), ("whole", 1024, 0)):
        spec = SPEC.format(folder=folder / "in", output=folder / name, size=size, overlap=overlap)
        (folder / f"{name}.yaml").write_text(spec)
    return folder


def test_a_tiled_job_from_plan_to_seams(place: Path) -> None:
    planned = condinst("plan", "tiled.yaml", "--check", cwd=place)
    assert "9 of 512x512 pixels" in planned
    assert "checked: the model opens" in planned
    tried = re.findall(r"checked: ortho.tif:\d+,\d+: ([\d,]+) instances", planned)
    assert len(tried) == 9
    assert any(count != "0" for count in tried)
    assert "EPSG:32635" in planned
    condinst("try", "tiled.yaml", "--images", 2, cwd=place)
    assert len(list((place / "try" / "ortho").rglob("*.jpg"))) >= 2
    assert not (place / "tiled").exists()
    for name in ("tiled", "whole"):
        condinst("run", f"{name}.yaml", "--local", cwd=place)
    assert "complete already" in condinst("run", "tiled.yaml", "--local", cwd=place)
    assert "complete" in condinst("status", "tiled", cwd=place)
    assert condinst("verify", "tiled", "--full", cwd=place).count("good: complete") == 2
    assert "_windows" in condinst("vacuum", "tiled", cwd=place)
    summary = json.loads((place / "tiled" / "summary.json").read_text())
    assert summary["windows"]["count"] == 9
    assert summary["images"] == 1
    told = condinst("evaluate", "tiled", "--seams", "whole", "--json", "seams.json", cwd=place)
    assert "matched" in told
    figures = json.loads((place / "seams.json").read_text())
    assert figures["matched"] > 0.95
    assert figures["duplicates"] < 0.02
    again = condinst("evaluate", "tiled", "--seams", "tiled", "--json", "same.json", cwd=place)
    assert "rasters" in again
    same = json.loads((place / "same.json").read_text())
    assert (same["matched"], same["excess"], same["lack"]) == (1.0, 0.0, 0.0)


def test_other_windows_are_other_settings(place: Path) -> None:
    told = condinst("run", "tiled.yaml", "--local", "--set", "tiling.overlap=64", cwd=place, code=5)
    assert "tiling.overlap: 128 -> 64" in told


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("tiling.overlap=300",), "overlap 300 is more than half of size 512"),
        (("tiling.bands=[1,2]",), "bands must name one band or three"),
        (("output.crs=EPSG:nothing", "output.uri=other"), "output.crs"),
        (("input.area=nowhere.geojson", "output.uri=other"), "nowhere.geojson"),
    ],
)
def test_settings_that_make_no_sense_are_told(place: Path, change: tuple[str, ...], why: str) -> None:
    sets = [part for one in change for part in ("--set", one)]
    done = subprocess.run(
        [COMMAND, "run", "tiled.yaml", "--local", *sets],
        capture_output=True,
        text=True,
        cwd=place,
        timeout=580,
    )
    assert done.returncode != 0
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_polygons_of_a_run_are_something_to_train_on(place: Path) -> None:
    """As after corrections in a map program: export, chips, and the plan of a training on them."""
    condinst("run", "tiled.yaml", "--local", cwd=place)
    condinst("export", "tiled", "--format", "geojson", "--to", "found.geojson", "--min-score", 0.5, cwd=place)
    told = condinst("chips", "tiled.yaml", "found.geojson", "chips", "--class-column", "category", cwd=place)
    match = re.match(r"(\d+) images \(\d+ without a label\) with ([\d,]+) instances", told)
    assert match, told
    assert match[1] == "9"
    (place / "train.yaml").write_text(
        "kind: train\nname: again\nmodel: {weights: demo}\noutput: {uri: trained}\n"
        "data: {train: {uri: chips/images, annotations: chips/truth.json}, held_out: 0.2}\n"
    )
    planned = condinst("plan", "train.yaml", "--check", cwd=place)
    assert re.search(r"learns from +\d images, [\d,]+ instances: .*plant", planned)
    assert "keeps" in planned
    assert planned.count("checked: 512 x ") == int(re.search(r"learns from +(\d)", planned)[1])  # type: ignore[index]
    condinst("chips", "tiled.yaml", "found.geojson", "chips", cwd=place, code=2)
