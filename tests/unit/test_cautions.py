"""What a run's end warns of."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.segment import run_job
from pipeline import tables
from tests.tiny import encoded, picture, tiny_weights


def ended(folder: Path, **model: object) -> str:
    """What a run over the folder's photos says; the second time it is complete already."""
    told = io.StringIO()
    spec = {
        "kind": "segment",
        "name": "cautious",
        "input": {"uri": str(folder / "photos")},
        "model": {"weights": str(tiny_weights(folder)), **model},
        "output": {"uri": str(folder / "out")},
    }
    run_job(load_text(json.dumps(spec), "spec"), local=True, console=Console(file=told, width=400))
    return told.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_nothing_to_warn_of(photos: Path) -> None:
    (photos / "a.png").write_bytes(encoded(picture(1)))
    said = ended(photos.parent, max_instances=10_000)
    assert "not segmented" not in said
    assert "max_instances" not in said


def test_images_that_hold_all_they_may_are_counted(photos: Path) -> None:
    for number in range(3):
        (photos / f"{number}.png").write_bytes(encoded(picture(number)))
    for _ in range(2):
        said = ended(photos.parent, score_threshold=0.05, max_instances=2)
        assert "3 images held as many instances as model.max_instances allows" in said
    assert json.loads((photos.parent / "out" / "summary.json").read_text())["capped"] == 3
    assert tables.open(str(photos.parent / "out")).images()["capped"].to_pylist() == [1, 1, 1]
    assert "3 images held as many" in (photos.parent / "out" / "report.html").read_text()


def test_why_inputs_were_not_segmented(photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"")
    assert "no input was segmented, such as bad.jpg: corrupt, the file is empty" in ended(photos.parent)
    (photos / "a.png").write_bytes(encoded(picture(1)))
    (photos.parent / "out").rename(photos.parent / "before")
    assert "1 of 2 inputs were not segmented, such as bad.jpg: corrupt, the file is empty" in ended(
        photos.parent
    )
