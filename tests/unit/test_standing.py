"""What an output that belongs to a job already says to a spec that is another one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.errors import Refused
from jobs.preview import preview
from jobs.segment import run_job
from jobs.train_files import JOB_KEY as TRAIN_KEY
from pipeline import tables
from pipeline.ledger import FingerprintMismatch
from tests.tiny import encoded, picture, tiny_weights


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_weights(tmp_path)
    for folder, number in (("photos", 1), ("others", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{number}.png").write_bytes(encoded(picture(number)))
    return tmp_path


def spec(place: Path, inputs: dict[str, Any], **more: Any) -> Any:
    said = {
        "kind": "segment",
        "name": "standing",
        "input": {"uri": str(place / "photos"), **inputs},
        "model": {"weights": str(place / "tiny-0.safetensors")},
        "output": {"uri": str(place / "out")},
        **more,
    }
    return load_text(json.dumps(said), "spec")


def did(place: Path, inputs: dict[str, Any] | None = None, **more: Any) -> str:
    told = io.StringIO()
    run_job(spec(place, inputs or {}, **more), local=True, console=Console(file=told, width=400))
    return told.getvalue()


def test_a_complete_job_says_when_it_listed_and_how_more_is_added(place: Path) -> None:
    did(place)
    created = json.loads((place / "out" / "job.json").read_text())["created"]
    (place / "photos" / "3.png").write_bytes(encoded(picture(3)))
    said = did(place)
    assert (
        f"the input is as it was listed at {created}; what came later is added with input.mode: new" in said
    )
    assert "complete already" in said
    assert "listed" not in did(place, {"mode": "new"}).replace("listing", "")
    assert tables.open(str(place / "out")).images().num_rows == 2


def test_a_cut_that_is_frozen_is_not_cut_anew_without_a_word(place: Path) -> None:
    did(place)
    assert "shards.images: 7 has no effect any more; the plan is frozen with" in did(
        place, shards={"images": 7}
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"include": ["*.jpg"]}, r'input\.0\.include: the default -> \["\*\.jpg"\]'),
        ({"name": "first"}, r'input\.0\.name: the default -> "first"'),
    ],
)
def test_another_input_is_refused_unless_it_adds(place: Path, changed: dict[str, Any], said: str) -> None:
    did(place)
    for step in (did, lambda place, inputs: preview(spec(place, inputs), Console(quiet=True))):
        with pytest.raises(Refused, match=said):
            step(place, changed)
    with pytest.raises(Refused, match=r'input\.0\.uri: "\S*photos" -> "\S*others"\n(.|\n)*mode: new'):
        did(place, {"uri": str(place / "others")})
    for same in (f"{place / 'photos'}/", f"file://{place / 'photos'}"):
        did(place, {"uri": same, "manifest": False})
    did(place, {"uri": str(place / "others"), "mode": "new"})
    did(place, {"uri": str(place / "others")})  # one of those that are in it by now
    ids = tables.open(str(place / "out")).images()["image_id"].to_pylist()
    assert ids == ["1.png", "2.png"]


def test_where_nothing_is_committed_it_may_be_begun_anew(place: Path) -> None:
    did(place)
    model = {"weights": str(place / "tiny-0.safetensors"), "score_threshold": 0.9}
    with pytest.raises(FingerprintMismatch) as refused:
        did(place, model=model)
    assert "can be deleted" not in str(refused.value)
    for record in (place / "out" / "commits").iterdir():
        record.unlink()
    with pytest.raises(FingerprintMismatch, match=r"score_threshold(.|\n)*Nothing is committed there yet"):
        did(place, model=model)


def test_the_output_of_a_training_is_left_alone(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / TRAIN_KEY).write_text("{}")
    with pytest.raises(Refused, match="holds a training"):
        did(place)
    with pytest.raises(Refused, match="holds a training"):
        preview(spec(place, {}), Console(quiet=True))
    assert [path.name for path in (place / "out").iterdir()] == [TRAIN_KEY]
