"""`status`, `top` and `cancel` of a training: what its output says, by signs of life and by what is kept."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import attendance, stopping
from jobs.attendance import unattended
from jobs.cancel import cancel_job
from jobs.cli import app
from jobs.confusion import Request as ConfusionRequest
from jobs.confusion import confusion
from jobs.errors import ExitCode, Interrupted, JobError, Refused
from jobs.evaluate import Request, run_evaluation
from jobs.publish import publish_output
from jobs.seams import compare_outputs
from jobs.selection import select_images
from jobs.status import show_status
from jobs.stopping import Stop
from jobs.target import no_job
from jobs.top import show_top
from jobs.train_files import SIGN_KEY
from jobs.train_status import look
from pipeline.stopping import cancel_requested, request_cancel
from pipeline.storage import Store, StoreOptions
from tests.made import made_job

SPEC = """\
kind: train
name: beds
data: {{train: {{uri: /in, annotations: /a.json}}, val: {{uri: /in, annotations: /b.json}}}}
training: {{steps: 400, checkpoint_steps: 100}}
output: {{uri: {output}}}
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An output that a training has claimed, and nothing else yet."""
    made = Store.open(str(tmp_path / "out"))
    put(
        made,
        "train.json",
        {"kind": "train", "name": "beds", "spec": {"batch": 8, "training": {"steps": 400}}},
    )
    return made


def put(store: Store, key: str, *said: dict[str, Any]) -> None:
    store.put(key, "\n".join(map(json.dumps, said)).encode())


def kept(store: Store, step: int) -> None:
    """What a training leaves at a checkpoint that it measured at."""
    line = {
        "step": step,
        "class": 0.5,
        "mask": 0.25,
        "lr": 1e-3,
        "norm": 3,
        "skipped": 0,
        "seconds": 2,
        "wait": 0,
    }
    put(store, f"log/{step:09d}.jsonl", {**line, "step": step - 1, "mask": 0.75}, line)
    put(store, f"checkpoints/{step:09d}.json", {"file": "x"})
    measured = [
        {"step": at, "seconds": 2.0 * at, "ap": 1 / at, "ap50": 0.5, "ap75": 0.2}
        for at in range(100, step + 1, 100)
    ]
    put(store, "measured.jsonl", *measured)
    put(store, "best.json", measured[0])
    for name in ("best", "last"):
        store.put(f"{name}.safetensors", b"weights")


def sign(store: Store, ago: float, **said: object) -> None:
    put(store, SIGN_KEY, {"host": "h", "started": 0, "time": time.time() - ago, "steps": 400, **said})


def shown(store: Store) -> str:
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    show_status(store.uri, StoreOptions(), console)
    return console.export_text()


def test_of_one_that_never_took_a_step(store: Store) -> None:
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.step, seen.checkpoint, seen.weights, seen.best) == (
        "not started",
        0,
        None,
        {},
        None,
    )
    assert "beds, not started" in shown(store)


def test_of_one_that_was_killed_what_is_kept_counts(store: Store) -> None:
    kept(store, 100)
    kept(store, 200)
    sign(store, 600, step=290)
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.step, seen.checkpoint) == ("interrupted", 200, 200)
    assert seen.losses == {"class": 0.5, "mask": 0.5}
    assert (seen.images_per_second, seen.seconds_left) == (4.0, 400.0)
    page = shown(store)
    assert "interrupted, silent for 10 min; run the same command again" in page
    assert "200 of 400, 50.0%; kept up to 200" in page
    assert "4.0 images/s, about 7 min of training left" in page
    assert "step 100, AP 0.0100" in page
    assert f"{store.uri}/best.safetensors" in page
    assert [line.split()[0] for line in page.splitlines()[-2:]] == ["100", "200"]


def test_of_one_at_work_its_last_word_counts(store: Store) -> None:
    kept(store, 100)
    sign(store, 3, step=177, losses={"class": 0.1, "lr": 1e-3}, images_per_second=9.5, seconds_left=75)
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.step, seen.checkpoint, seen.losses) == ("running", 177, 100, {"class": 0.1})
    page = shown(store)
    assert "running, last sign 3 s ago" in page
    assert "9.5 images/s, about 75 s of training left" in page
    sign(store, 3, step=100)  # it has just gone on
    seen = look(store)
    assert seen is not None
    assert (seen.images_per_second, seen.step) == (4.0, 100)


def test_of_one_that_is_done(store: Store) -> None:
    kept(store, 400)
    put(store, "summary.json", {"steps": 400})
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.step, seen.seconds_left) == ("complete", 400, 0)
    assert "beds, complete" in shown(store)


def test_a_bucket_tells_what_a_folder_does(store: Store, s3_bucket: str) -> None:
    there = Store.open(f"{s3_bucket}/trained")
    kept(store, 200)
    for info in store.list(""):
        there.put(info.key, store.get(info.key))
    sign(there, 1, step=210)
    here, seen = look(store), look(there)
    assert here is not None
    assert seen is not None
    assert (seen.state, seen.step, seen.measured, seen.losses) == ("running", 210, here.measured, here.losses)
    assert seen.weights["best"] == f"{s3_bucket}/trained/best.safetensors"
    assert "the training gave a sign" in cancel(there)
    assert cancel_requested(there) is not None


def test_it_is_told_as_data_and_of_a_spec_file_too(store: Store, tmp_path: Path) -> None:
    kept(store, 100)
    spec = tmp_path / "train.yaml"
    spec.write_text(SPEC.format(output=store.uri))
    for target in (store.uri, str(spec)):
        done = CliRunner().invoke(app, ["status", target, "--json"])
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout)
        assert (said["kind"], said["name"], said["state"]) == ("train", "beds", "interrupted")
        assert [line["step"] for line in said["measured"]] == [100]
        assert said["weights"]["last"] == f"{store.uri}/last.safetensors"


def test_a_segment_job_is_told_as_data(tmp_path: Path) -> None:
    made = made_job(str(tmp_path / "out"), tmp_path / "in", 12)
    done = CliRunner().invoke(app, ["status", made.uri, "--json"])
    said = json.loads(done.stdout)
    assert (said["kind"], said["state"], said["images"]) == (
        "segment",
        "not complete",
        {"done": 0, "planned": 12},
    )
    assert said["workers"] == []


def test_top_shows_the_same_once(store: Store) -> None:
    kept(store, 100)
    console = Console(width=200, record=True, file=io.StringIO())
    show_top(store.uri, StoreOptions(), every=1, once=True, console=console)
    assert "100 of 400, 25.0%" in console.export_text()


def test_other_commands_say_that_it_is_a_training(store: Store, tmp_path: Path) -> None:
    assert "holds a training (train.json), and this command is for segment jobs" in str(no_job(store))
    nothing = Store.open(str(tmp_path / "none"))
    assert "holds no job" in str(no_job(nothing))
    with pytest.raises(JobError, match="holds no job"):
        show_status(nothing.uri, StoreOptions())


def test_whoever_reads_a_run_says_that_it_is_a_training(store: Store, tmp_path: Path) -> None:
    truth, to, options = tmp_path / "truth.json", str(tmp_path / "to"), StoreOptions()
    truth.write_text(
        '{"images": [{"id": 1, "file_name": "a", "height": 9, "width": 9}], "annotations": [], '
        '"categories": [{"id": 1, "name": "a"}]}'
    )
    for read in (
        lambda: run_evaluation(Request(str(truth), output=store.uri)),
        lambda: compare_outputs(store.uri, store.uri, options, None),
        lambda: select_images(store.uri, 1, ["density"], to, options),
        lambda: confusion(ConfusionRequest(store.uri, str(truth))),
        lambda: publish_output(store.uri, to, options),
    ):
        with pytest.raises(JobError, match=r"holds a training \(train\.json\)"):
            read()


def test_a_record_of_somebody_else_is_refused(store: Store) -> None:
    put(store, "train.json", {"name": "theirs"})
    with pytest.raises(Refused, match="was not written by this program"):
        look(store)


@pytest.mark.parametrize("data", [b"{", b"[]", b"", b'{"time": null}'])
def test_a_broken_sign_is_none(store: Store, data: bytes) -> None:
    kept(store, 100)
    store.put(SIGN_KEY, data)
    seen = look(store)
    assert seen is not None
    assert seen.state == "interrupted"


def cancel(store: Store) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    cancel_job(store.uri, StoreOptions(), console)
    return console.export_text()


def test_a_cancel_is_left_for_one_that_is_not_done(store: Store) -> None:
    assert "gave no sign of late" in cancel(store)
    assert cancel_requested(store) is not None
    assert "cancel requested" in shown(store)
    sign(store, 2, step=1)
    assert "the training gave a sign 2 s ago" in cancel(store)


def test_one_that_is_done_is_not_cancelled(store: Store) -> None:
    put(store, "summary.json", {})
    assert "nothing to cancel" in cancel(store)
    assert cancel_requested(store) is None


def test_one_at_work_gives_signs_and_takes_them_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "INTERVAL", 0.02)
    step = {"step": 1}
    with attendance.attendance(store, lambda: step):
        until(lambda: (seen := look(store)) is not None and (seen.state, seen.step) == ("running", 1))
        step["step"] = 7
        until(lambda: (seen := look(store)) is not None and seen.step == 7)
    seen = look(store)
    assert seen is not None
    assert seen.last_sign is None
    assert not any(thread.name == "attendance" for thread in threading.enumerate())


def test_a_sign_on_its_way_at_the_end_is_gone_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attendance, "INTERVAL", 0.02)
    begun, at_once = threading.Event(), Store.put

    def slowly(self: Store, key: str, data: bytes) -> None:
        begun.set()
        time.sleep(0.3)
        at_once(self, key, data)

    monkeypatch.setattr(Store, "put", slowly)
    with attendance.attendance(store, dict):
        assert begun.wait(60)
    assert not any(thread.name == "attendance" for thread in threading.enumerate())
    assert SIGN_KEY not in {info.key for info in store.list()}


def test_a_driver_hears_a_request_which_leaves_the_step_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "CANCEL_SECONDS", 0.02)
    stop, told, alarm = Stop("the same command goes on"), Mock(), Mock()
    monkeypatch.setattr(stopping.signal, "alarm", alarm)
    with attendance.hearing(store, stop, told):
        time.sleep(0.1)
        assert not stop()
        request_cancel(store)
        until(stop)
    alarm.assert_not_called()
    told.assert_called_once()
    with pytest.raises(Interrupted, match="cancelled on request; the same command goes on") as raised:
        stop.raise_if_set()
    assert raised.value.code == ExitCode.CANCELLED


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_driver_ends_by_itself_only_what_no_worker_is_there_to_end() -> None:
    stop = Stop("the same command goes on")
    look_after = unattended(stop)
    look_after(40.0)
    stop.ask(Interrupted("cancelled", ExitCode.CANCELLED), patient=True)
    look_after(4.0)
    with pytest.raises(Interrupted, match="cancelled"):
        look_after(40.0)
