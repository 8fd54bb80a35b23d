"""Places on this machine and in stores that a user names: what cannot be used is said early, and by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.check import load_text
from jobs.errors import ExitCode, explain
from jobs.segment import run_job
from jobs.status import show_status
from jobs.target import no_job
from pipeline.storage import Store, StoreOptions
from tests.tiny import encoded, picture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: photos, and a file of notes."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(encoded(picture(1), "JPEG"))
    (tmp_path / "notes.txt").write_text("kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec_text(output: str) -> str:
    return json.dumps(
        {
            "kind": "segment",
            "name": "x",
            "input": {"uri": "photos"},
            "model": {"weights": "demo"},
            "output": {"uri": output},
        }
    )


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("notes.txt", "output.uri: {}/notes.txt is a file; name a folder"),
        (
            f"{'x' * 300}/out",
            f"output.uri: {{}}/{'x' * 300}/out cannot be created: File name too long; name ",
        ),
    ],
)
def test_an_output_that_cannot_be_is_a_bad_spec(folder: Path, output: str, said: str) -> None:
    with pytest.raises(Exception, match="output") as caught:
        run_job(load_text(spec_text(output), "job.yaml"), local=True)
    code, message = explain(caught.value) or (ExitCode.BUG, "")
    assert code == ExitCode.BAD_SPEC
    assert message.startswith(said.format(folder))
    assert "_probe" not in message


def test_a_bucket_that_is_not_there_is_no_output_without_a_job(s3_bucket: str) -> None:
    with pytest.raises(Exception, match="there is no such bucket at http") as caught:
        show_status("s3://no-such-bucket-here/masks", StoreOptions())
    assert (explain(caught.value) or (ExitCode.BUG,))[0] == ExitCode.STORE
    with pytest.raises(Exception, match=r"masks holds no job \(no job.json\)") as caught:
        raise no_job(Store.open(f"{s3_bucket}/masks"))
    assert (explain(caught.value) or (ExitCode.BUG,))[0] == ExitCode.BAD_SPEC
