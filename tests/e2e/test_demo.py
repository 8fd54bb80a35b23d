"""`condinst demo` and `condinst demo-model`, as `make` runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from condinst import weightsfile
from pipeline import tables

CONDINST = Path(sys.executable).parent / "condinst"


def condinst(*arguments: str) -> str:
    done = subprocess.run([CONDINST, *arguments], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, condinst("demo", "--output", str(folder))


def test_demo_ends_with_tables_overlays_and_its_ap(demo: tuple[Path, str]) -> None:
    folder, said = demo
    run = tables.open(str(folder / "masks"))
    assert run.complete
    assert set(run.images(["status"])["status"].to_pylist()) == {"ok"}
    assert run.instances(["image_id"]).num_rows > 500
    overlays = sorted((folder / "overlays").glob("*.jpg"))
    assert len(overlays) >= 4
    for overlay in overlays:
        Image.open(overlay).verify()
    for path in (folder / "masks", folder / "overlays", folder / "metrics.json", folder / "demo.yaml"):
        assert str(path) in said


def test_the_shipped_model_reaches_the_ap_it_promises_on_unseen_scenes(demo: tuple[Path, str]) -> None:
    masks = json.loads((demo[0] / "metrics.json").read_text())[0]
    assert masks["kind"] == "segm"
    assert masks["ap"] >= 0.5


def test_the_shipped_weights_are_small() -> None:
    assert weightsfile.demo_path().stat().st_size <= 12_000_000


def test_the_demo_again_does_nothing_twice(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    files = {path: path.stat().st_mtime_ns for path in (folder / "masks").rglob("*.parquet")}
    said = condinst("demo", "--output", str(folder))
    assert "nothing to do" in said
    assert files == {path: path.stat().st_mtime_ns for path in (folder / "masks").rglob("*.parquet")}


def test_the_demo_model_is_made_by_one_command_the_same_each_time(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        path = tmp_path / f"{name}.safetensors"
        condinst("demo-model", "--output", str(path), "--scenes", "2", "--steps", "2")
        digests.add(weightsfile.digest(path))
    assert len(digests) == 1
    assert weightsfile.read_config(path) == weightsfile.read_config("demo")
    assert weightsfile.read_notes(path)["steps"] == "2"
