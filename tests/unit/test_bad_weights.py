"""Weights that cannot be used: whatever command takes them ends with one message that says which and why."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from condinst import weights, weightsfile
from condinst.weightsfile import WeightsError
from jobs.cli import app
from jobs.errors import ExitCode, explain
from jobs.scenes.dataset import write_dataset
from tests.tiny import tiny_weights

COMMAND = get_command(app)
BAD = {
    "missing": ("nowhere.safetensors", "no such"),
    "of a long name": ("x" * 5000, "no such"),
    "a folder": ("photos", "folder|no such"),
    "not to be read": ("/proc/self/mem", "cannot be read|can be read without running"),
    "cut short": ("short.safetensors", "not a readable safetensors file"),
    "empty": ("empty.safetensors", "not a readable safetensors file"),
    "another format": ("text.safetensors", "not a readable safetensors file"),
    "of another project": ("other.safetensors", "not one of ours|no place in the model"),
}
URIS = {
    "a missing URI": ("file:///nowhere/x.safetensors", "there is no such weights file"),
    "a URI of no file": ("s3://bucket/", "there is no such weights file"),
    "a scheme": ("s4://bucket/x.safetensors", "s4:// is not read here"),
    "nothing promoted": ("models/m/current.json", "no version was promoted there; do so with"),
}


def _segment(name: str) -> list[str]:
    spec = {"kind": "segment", "name": "a", "input": {"uri": "photos"}, "output": {"uri": "out"}}
    Path("job.yaml").write_text(json.dumps({**spec, "model": {"weights": name}}))
    return ["job.yaml"]


def _train(key: str, name: str) -> list[str]:
    source = {"uri": "photos", "annotations": "truth.json"}
    model = {key: name}
    val = {**source, "uri": "copies"}  # nothing is learned from that is measured on
    spec = {"kind": "train", "name": "a", "data": {"train": source, "val": val}, "model": model}
    Path("job.yaml").write_text(json.dumps({**spec, "output": {"uri": "out"}}))
    return ["job.yaml"]


ON = ["--on", "truth.json", "--images", "photos", "--name", "m", "--min-images", "1", "--dry-run"]
COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "run": lambda name: ["run", *_segment(name), "--local"],
    "plan": lambda name: ["plan", *_segment(name)],
    "try": lambda name: ["try", *_segment(name)],
    "train": lambda name: ["train", *_train("weights", name)],
    "train on a backbone": lambda name: ["train", *_train("backbone_weights", name)],
    "predict": lambda name: ["predict", "photos", "--weights", name],
    "evaluate": lambda name: ["evaluate", "--weights", name, "--images", "photos", "--truth", "truth.json"],
    "promote": lambda name: ["promote", name, *ON],
    "promote against": lambda name: ["promote", "tiny-0.safetensors", "--against", name, *ON],
    "show": lambda name: ["weights", "show", name],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo with its truth, weights that fit it, and those that are no good."""
    folder = tmp_path_factory.mktemp("bad")
    good = tiny_weights(folder).read_bytes()
    write_dataset(folder, range(1), 64)
    (folder / "images").rename(folder / "photos")
    shutil.copytree(folder / "photos", folder / "copies")
    names = [
        {"id": n, "name": name}
        for n, name in enumerate(weightsfile.read_config(folder / "tiny-0.safetensors").classes, 1)
    ]
    truth = json.loads((folder / "truth.json").read_text())
    annotations = [{**a, "category_id": 1} for a in truth["annotations"]]
    (folder / "truth.json").write_text(json.dumps({**truth, "annotations": annotations, "categories": names}))
    (folder / "short.safetensors").write_bytes(good[: len(good) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("no tensors here\n" * 100)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (folder / "other.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    return folder


def told(arguments: list[str]) -> str:
    result = CliRunner().invoke(COMMAND, arguments)  # type: ignore[arg-type]  # typer carries a click of its own
    assert isinstance(result.exception, Exception), result.output
    assert not isinstance(result.exception, SystemExit), result.output
    words = explain(result.exception)
    assert words is not None, repr(result.exception)
    assert words[0] in (ExitCode.BAD_SPEC, ExitCode.STORE, ExitCode.REFUSED)
    return words[1]


@pytest.mark.parametrize(("name", "why"), (BAD | URIS).values(), ids=BAD | URIS)
@pytest.mark.parametrize("command", COMMANDS)
def test_one_message_names_the_weights_and_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str, why: str
) -> None:
    monkeypatch.chdir(folder)
    message = told(COMMANDS[command](name))
    assert len(message.splitlines()) == 1
    assert name[:100] in message or name.rpartition("/")[0] in message
    assert any(part in message for part in why.split("|")), message
    if command.startswith(("run", "plan", "try", "train")) and (name, why) in BAD.values():
        assert message.startswith("model.")
    assert not (folder / "out").exists(), "nothing is begun"


@pytest.mark.parametrize(("name", "why"), BAD.values(), ids=BAD)
def test_a_checkpoint_to_convert_is_told_alike(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.chdir(folder)
    message = told(["weights", "convert", name, "to.safetensors"])
    assert name[:100] in message
    assert any(part in message for part in why.split("|")), message


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_read(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Of whatever is cut off or changed in a file there is no other outcome."""
    good = bytearray((folder / "tiny-0.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", good[:8])[0]
    for _ in range(data.draw(st.integers(0, 3))):
        good[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good)
    assert len(weightsfile.digest(path)) == 64
    with suppress(WeightsError):
        weights.load(path)
