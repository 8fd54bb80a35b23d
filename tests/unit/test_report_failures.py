"""A report's failures: a few of each kind, with what can be read of them, and none ends the report."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.run_report import salvage as module
from jobs.run_report.childsalvage import salvage
from jobs.run_report.gather import FAILURES, Gathered, Trouble, gather
from jobs.run_report.overlays import overlays
from jobs.run_report.page import render
from jobs.run_report.salvage import EDGE, NoPicture, Salvage
from pipeline.decode import DecodeLimits, decode
from pipeline.records import InputRejected, Status
from tests.poisons import plant, poisoned
from tests.tiny import encoded, picture
from tests.viewing import HOSTILE, segment

LIMITS = DecodeLimits(pixels=10**6, bytes=10**7, seconds=60)
WHOLE = encoded(picture(3, 300, 400), "JPEG")
TOP = WHOLE[: len(WHOLE) // 2]


class Files:
    """The pictures of a run whose inputs are these."""

    limits = LIMITS

    def __init__(self, **files: bytes) -> None:
        self._files = files
        self.most: list[int] = []

    def file(self, row: Mapping[str, Any], most: int) -> bytes:
        self.most.append(most)
        if row["image_id"] not in self._files:
            raise InputRejected(Status.MISSING, "gone")
        return self._files[row["image_id"]]


def opened(files: Files, seconds: float = 600.0) -> Salvage:
    return Salvage(files, time.monotonic() + seconds)  # type: ignore[arg-type]


def row(image_id: str, status: str = "corrupt", error: str = "cut off") -> dict[str, Any]:
    return {"image_id": image_id, "status": status, "error": error}


def trouble(status: str, inputs: int, *ids: str) -> Trouble:
    return Trouble(status, inputs, [row(image_id, status) for image_id in ids])


def test_each_status_comes_first_then_each_reason() -> None:
    kinds = [trouble("corrupt", 9, *"abc"), trouble("corrupt", 2, *"de"), trouble("missing", 4, *"xy")]
    found = Gathered(troubles={(t.status, str(n)): t for n, t in enumerate(kinds)})
    shown = [row["image_id"] for row in found.failures]
    assert shown == ["a", "x", "d", "y", "b", "e"]
    assert len(shown) == FAILURES
    assert Gathered().failures == []


def test_of_a_damaged_image_the_rest_is_read() -> None:
    whole, rest = decode(WHOLE, LIMITS), salvage(TOP, LIMITS)
    assert rest.shape == whole.shape
    assert np.array_equal(rest[:100], whole[:100])
    assert not np.array_equal(rest[-50:], whole[-50:])
    png = encoded(picture(3, 300, 400))
    assert np.array_equal(salvage(png[: len(png) // 2], LIMITS)[:100], decode(png, LIMITS)[:100])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        WHOLE[:200],
        encoded(picture(1, 64, 64), "TIFF")[:900],
        encoded(picture(1, 1100, 1000)),
    ],
)
def test_where_nothing_can_be_read_the_reason_is_the_decoder_s(data: bytes) -> None:
    with pytest.raises(InputRejected) as here:
        decode(data, LIMITS)
    with pytest.raises(InputRejected) as told:
        salvage(data, LIMITS)
    assert str(told.value) == str(here.value)


def test_a_picture_is_as_large_as_a_tile() -> None:
    made = opened(Files(top=TOP, whole=WHOLE, thin=encoded(picture(2, 1, 5000))))
    assert made.picture(row("top")).shape == (300, 400, 3)
    assert made.picture(row("whole", "failed", "RuntimeError")).shape == (300, 400, 3)
    assert made.picture(row("thin")).shape == (1, EDGE, 3)
    made.close()


def test_who_cannot_be_shown_says_why() -> None:
    files = Files(text=b"no image")
    made = opened(files)
    with pytest.raises(NoPicture, match="missing: gone"):
        made.picture(row("lost"))
    with pytest.raises(InputRejected) as refused:
        decode(b"no image", LIMITS)
    with pytest.raises(NoPicture, match="nothing of it can be read"):
        made.picture(row("text", refused.value.status, refused.value.reason))
    made.close()
    assert set(files.most) == {LIMITS.bytes}
    with pytest.raises(NoPicture, match="no time"):
        opened(files, seconds=-1).picture(row("text"))


def test_files_that_kill_or_hang_cost_their_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plant(tmp_path))
    monkeypatch.setattr(module, "SECONDS", 10.0)
    made = opened(Files(segv=poisoned("segv"), hang=poisoned("hang holding the GIL"), top=TOP))
    with pytest.raises(NoPicture, match="SIGSEGV"):
        made.picture(row("segv"))
    with pytest.raises(NoPicture, match="did not end within 10 s"):
        made.picture(row("hang"))
    assert made.picture(row("top")).shape == (300, 400, 3)
    made.close()


def test_a_machine_without_processes_has_a_report_without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    files = Files(top=TOP, whole=WHOLE)
    made = opened(files)
    for name in ("top", "whole"):
        with pytest.raises(NoPicture, match="no process to decode in"):
            made.picture(row(name))
    assert len(files.most) == 1, "it is not tried again"


def test_the_page_shows_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 60.0)  # a busy machine shows it, too
    monkeypatch.setattr("jobs.run_report.overlays.SECONDS", 600.0)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "good.jpg").write_bytes(WHOLE)
    (inputs / HOSTILE).write_bytes(TOP)
    (inputs / "notes.jpg").write_bytes(b"no image at all")
    (inputs / "gone.jpg").write_bytes(WHOLE[:-100])
    run = segment(inputs, str(tmp_path / "masks"))
    (inputs / "gone.jpg").unlink()
    group = overlays(run, gather(run))[-1]
    assert group.title == "Failures"
    assert [one.status for one in group.overlays] == ["corrupt", "unsupported", "corrupt"]
    shown = {one.image_id: one for one in group.overlays}
    drawn = Image.open(io.BytesIO(base64.b64decode(shown[HOSTILE].picture.partition(",")[2])))
    assert drawn.size == (400, 300)
    assert not shown["notes.jpg"].picture
    assert "missing" in shown["gone.jpg"].trouble
    text = render(run)
    assert text.count("what can be read of it") == 1
    assert HOSTILE not in text
    assert "<h3>Failures</h3>" in text
