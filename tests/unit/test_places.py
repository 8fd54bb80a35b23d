"""Places on this machine and in stores that a user names: what cannot be used is said early, and by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.check import load_text
from jobs.cli import app
from jobs.errors import ExitCode, JobError, explain
from jobs.predict import predict_files
from jobs.segment import run_job
from jobs.status import show_status
from jobs.target import no_job
from jobs.view import write_report
from pipeline.storage import Store, StoreOptions
from tests.made import made_output
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


def refused(command: str) -> str:
    """What is wrong with a command's arguments; it ends with 2."""
    error = CliRunner().invoke(app, command.split()).exception
    code, message = (isinstance(error, Exception) and explain(error)) or (ExitCode.BUG, repr(error))
    assert code == ExitCode.BAD_SPEC, message
    return message


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [
        ("predict photos --output", "--output", "folder"),
        ("try job.yaml --output", "--output", "folder"),
        ("demo --output", "--output", "folder"),
        ("evaluate out --truth truth.json --plots", "--plots", "folder"),
        ("demo-model --output", "--output", "file"),
        ("import labels.json", "TRUTH.json", "file"),
        ("weights convert model.pth", "OUT.safetensors", "file"),
        ("weights convert", "IN", "file"),
        ("run", "SPEC", "file"),
        ("schedule serve", "SPEC", "file"),
    ],
)
def test_what_takes_a_path_says_so_of_a_uri(folder: Path, command: str, option: str, kind: str) -> None:
    more = " x.safetensors" if option == "IN" else ""
    said = refused(f"{command} s3://bucket/p{more}")
    assert said == f"{option}: s3://bucket/p: this takes a {kind} on this machine"
    assert {path.name for path in folder.iterdir()} == {"photos", "notes.txt"}


@pytest.mark.parametrize(
    "command",
    [
        "predict photos --output notes.txt",
        "predict photos --output notes.txt/deep/er",
        "try job.yaml --output notes.txt",
        "evaluate out --truth truth.json --plots notes.txt",
        "evaluate out --truth truth.json --json notes.txt/x.json",
        "report out --to notes.txt/x.html",
        "diff out out --to notes.txt/d",
        "confusion out --truth truth.json --to notes.txt",
        "weights convert model.pth notes.txt/x.safetensors",
    ],
)
def test_a_file_in_the_place_of_a_folder_is_told_before_anything_is_read(folder: Path, command: str) -> None:
    option = "OUT.safetensors" if "weights" in command else command.split()[-2]
    assert refused(command) == f"{option}: notes.txt is a file; name a folder"


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_read(folder: Path) -> None:
    said = refused("evaluate out --truth truth.json --json photos")
    assert said == "--json: photos is a folder; name a file"
    assert refused("report out --to photos") == "--to: photos is a folder; name a file"


def test_what_only_writing_shows_has_no_traceback(folder: Path) -> None:
    with pytest.raises(JobError, match=r"/x{300}: File name too long; name another place"):
        predict_files([str(folder / "photos")], "demo", folder / ("x" * 300))


def test_a_link_is_written_through_not_replaced(folder: Path) -> None:
    output = made_output(str(folder / "out"), folder / "in")
    Path("link.html").symlink_to(folder / "notes.txt")
    write_report(output.uri, StoreOptions(), "link.html")
    write_report(output.uri, StoreOptions(), "/dev/null")
    assert Path("link.html").is_symlink()
    assert (folder / "notes.txt").read_bytes().startswith(b"<!doctype html>")
    assert Path("/dev/null").is_char_device()


def test_a_reports_folder_is_made(folder: Path) -> None:
    output = made_output(str(folder / "out"), folder / "in")
    write_report(output.uri, StoreOptions(), "rep/x/y.html")
    assert Path("rep/x/y.html").read_bytes().startswith(b"<!doctype html>")
