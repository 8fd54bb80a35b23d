"""A training job from its spec to measured weights."""

from __future__ import annotations

import io
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import condinst
from condinst import weightsfile
from condinst.config import ModelConfig
from condinst.evaluate import evaluate
from jobs import attendance, cli, structured
from jobs.board import Board
from jobs.cancel import cancel_job
from jobs.check import load_text
from jobs.errors import ExitCode, Interrupted, JobError, Refused, SpecError
from jobs.exam import given_exam, held_exam
from jobs.held_truth import common_root, put_held_truth
from jobs.judge import Judge
from jobs.learn import material
from jobs.scenes import CATEGORIES
from jobs.scenes.dataset import write_dataset
from jobs.stopping import Stop
from jobs.train import _group, train_job
from jobs.train_files import JOB_KEY, read_log
from jobs.train_log import TrainLog
from jobs.train_record import claim, placed
from jobs.train_spec import DataSection, ExamSection, SourceSection, TrainSpec
from jobs.train_status import look
from jobs.train_worker import work
from pipeline.badimages import TooManyBad
from pipeline.checkpoints import CheckpointError, Checkpoints
from pipeline.models import Models
from pipeline.samples import SampleError, Samples, SampleSource, held_out
from pipeline.storage import Store, StoreOptions
from pipeline.trainer import recurs
from tests.tiny import CLASSES, tiny_weights

SMALL = """\
  backbone: {depth: 18, stem_channels: 8, width: 8, norm: batch}
  fpn: {channels: 16}
  head: {num_convs: 1, groups: 4}
  mask: {branch_channels: 8, branch_convs: 1}
  input: {resize: {rule: fixed_scale, scale: 1.0}}
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes with their truth, to learn from; and the same once more in `val`, to measure on."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, range(3), 160)
    write_dataset(folder / "val", range(3), 160)
    return folder


def spec_of(
    scenes: Path,
    output: Path,
    model: str = SMALL,
    more: str = "",
    size: int = 96,
    samples: int = 0,
    *sets: str,
) -> TrainSpec:
    source = f"{{uri: {scenes}/images, annotations: {scenes}/truth.json}}"
    val = source.replace(f"{scenes}/", f"{scenes}/val/")
    views = f"size: {size}" if size else "copy_paste: 0.5"
    return load_text(
        f"kind: train\nname: test\ndata:\n  train: {source}\n  val: {val}\nmodel:\n{model}"
        f"training: {{steps: 4, warmup_steps: 2, checkpoint_steps: 2}}\nbatch: 2\naugment: {{{views}}}\n"
        f"samples: {samples}\noutput: {{uri: {output}}}\n{more}",
        "spec.yaml",
        sets,
        TrainSpec,
    )


def run(spec: TrainSpec) -> tuple[dict[str, object], str]:
    console = Console(file=io.StringIO(), width=200)
    found = train_job(spec, console)
    assert isinstance(console.file, io.StringIO)
    return found, console.file.getvalue()


def test_it_leaves_weights_measurements_and_curves(scenes: Path, tmp_path: Path) -> None:
    found, said = run(spec_of(scenes, tmp_path / "out"))
    assert "M parameters on 3 images" in said
    measured = [json.loads(line) for line in (tmp_path / "out" / "measured.jsonl").read_text().splitlines()]
    assert [m["step"] for m in measured] == [2, 4]
    assert found["ap"] == max(m["ap"] for m in measured)
    model = condinst.load(tmp_path / "out" / "last.safetensors")
    assert model.config.classes == CATEGORIES
    assert weightsfile.read_notes(tmp_path / "out" / "last.safetensors")["step"] == "4"
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert record["images"] == 3
    assert record["spec"]["training"]["steps"] == 4


def test_the_same_spec_gives_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(spec_of(scenes, tmp_path / name))
    a, b = (weightsfile.digest(tmp_path / name / "last.safetensors") for name in ("a", "b"))
    assert a == b


def test_a_training_that_is_done_is_left_alone(scenes: Path, tmp_path: Path) -> None:
    found, _ = run(spec_of(scenes, tmp_path / "out"))
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    again, said = run(spec_of(scenes, tmp_path / "out"))
    assert again == found
    assert "it is done" in said
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_another_spec_is_refused_and_told_what_differs(scenes: Path, tmp_path: Path) -> None:
    run(spec_of(scenes, tmp_path / "out"))
    before = weightsfile.digest(tmp_path / "out" / "last.safetensors")
    with pytest.raises(Refused, match=r"seed: 0 -> 1") as told:
        run(spec_of(scenes, tmp_path / "out", more="seed: 1\n"))
    assert len(str(told.value).splitlines()) == 3
    assert str(told.value).endswith(f"start from: model.weights: {tmp_path}/out/last.safetensors")
    assert weightsfile.digest(tmp_path / "out" / "last.safetensors") == before


def test_a_training_that_has_kept_nothing_may_be_begun_anew(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(spec_of(scenes, out))
    shutil.rmtree(out / "checkpoints")
    (out / "last.safetensors").unlink()
    with pytest.raises(Refused, match="It has kept nothing yet"):
        run(spec_of(scenes, out, more="seed: 1\n"))
    (out / "train.json").rename(out / "job.json")
    with pytest.raises(Refused, match="holds a segment job"):
        run(spec_of(scenes, out))


@pytest.mark.parametrize(
    ("val", "problem"),
    [
        ("{uri: a}", r"data\.val\.annotations: missing"),
        (
            "{uri: a, annotations: a.json, run: b}",
            r"data\.val\.run: unknown key here; did you mean data\.train\.run",
        ),
        ("{uri: a, annotations: a.json, weight: 2}", r"data\.val\.weight: unknown key here"),
    ],
)
def test_val_takes_a_json_and_nothing_else(val: str, problem: str) -> None:
    data = f"data:\n  train: {{uri: a, annotations: a.json}}\n  val: {val}\n"
    with pytest.raises(SpecError, match=problem):
        load_text(f"kind: train\nname: test\n{data}output: {{uri: out}}\n", "spec.yaml", kind=TrainSpec)


def test_a_record_of_when_val_had_more_keys_is_the_same_training(scenes: Path, tmp_path: Path) -> None:
    spec, store = placed(spec_of(scenes, tmp_path / "out")), Store.open(str(tmp_path / "out"))
    claimed = store, spec, ModelConfig(classes=CATEGORIES), {}, {}
    assert claim(*claimed)
    record = json.loads(store.get(JOB_KEY))
    record["settings"]["data"]["val"] |= {"run": None, "min_score": 0.0, "boxes_only": False, "weight": 1.0}
    store.put(JOB_KEY, json.dumps({**record, "fingerprint": "of then"}).encode())
    assert not claim(*claimed)


def test_annotations_that_changed_are_refused(scenes: Path, tmp_path: Path) -> None:
    truth = json.loads((scenes / "truth.json").read_text())
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    spec = spec_of(scenes, tmp_path / "out")
    source = spec.data.train[0].model_copy(update={"annotations": str(tmp_path / "truth.json")})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"train": (source,)})})
    run(spec)
    truth["annotations"].pop()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    with pytest.raises(Refused, match=r"digests\.0:.*truth\.json"):
        run(spec)


def test_a_truth_that_changed_is_refused(scenes: Path, tmp_path: Path) -> None:
    val = truth_of(scenes / "val", tmp_path / "val.json", lambda _: None)
    spec = with_data(spec_of(scenes, tmp_path / "out"), val=val)
    payload = payload_of(spec)
    run(spec)

    def written_anew(truth: dict) -> None:
        """Nothing in it that is measured."""
        truth["info"] = "another hand"
        truth["images"].reverse()
        truth["categories"].append({"id": 99, "name": "none of the model's"})
        for annotation in truth["annotations"]:
            annotation["id"] += 1000

    truth_of(scenes / "val", tmp_path / "val.json", written_anew)
    assert "it is done" in run(spec)[1]
    truth_of(scenes / "val", tmp_path / "val.json", lambda truth: truth["annotations"].pop())
    with pytest.raises(Refused, match=r"digests\.measured on: "):
        run(spec)
    with pytest.raises(Refused, match=r"changed while the training ran:\n.*measured on"):
        work(payload)


def test_a_record_of_when_the_truth_was_not_noted_is_the_same_training(scenes: Path, tmp_path: Path) -> None:
    spec, store = placed(spec_of(scenes, tmp_path / "out")), Store.open(str(tmp_path / "out"))
    config = ModelConfig(classes=CATEGORIES)
    assert claim(store, spec, config, {"0:a.json": "1"}, {})
    assert not claim(store, spec, config, {"0:a.json": "1", "measured on": "2"}, {})
    with pytest.raises(Refused, match=r'digests\.0:a\.json: "1" -> "2"'):
        claim(store, spec, config, {"0:a.json": "2", "measured on": "2"}, {})


def interrupted(spec: TrainSpec, step: int) -> None:
    """Run it, and have it end as if killed when that step's checkpoint would be put."""
    put = Checkpoints.put

    def killed(self: Checkpoints, at: int, *rest: object) -> None:
        if at == step:
            raise KeyboardInterrupt
        put(self, at, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            run(spec)


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    whole, halved = (spec_of(scenes, tmp_path / name) for name in ("whole", "halved"))
    run(whole)
    interrupted(halved, 4)
    assert not (tmp_path / "halved" / "summary.json").exists()
    _, said = run(halved)
    assert "going on from step 2" in said
    a, b = (weightsfile.digest(tmp_path / name / "last.safetensors") for name in ("whole", "halved"))
    assert a == b
    logs = [losses_of(tmp_path / name) for name in ("whole", "halved")]
    assert logs[0] == logs[1]
    assert [step["step"] for step in logs[0]] == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_cancelled_training_keeps_its_step_and_ends_with_the_same_weights(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whether a checkpoint comes after that step by itself (2) or not."""
    whole, halved = (spec_of(scenes, tmp_path / name) for name in ("whole", "halved"))
    run(whole)
    store = Store.open(str(tmp_path / "halved"))
    told, hear, heard = TrainLog.step, attendance.hear, threading.Event()

    def asked(self: TrainLog, at: int, terms: dict[str, float]) -> None:
        told(self, at, terms)
        if at == step:
            cancel_job(store.uri, StoreOptions(), Console(quiet=True))
            assert heard.wait(60)

    def hearing(store: Store, stop: Stop, *, patient: bool) -> bool:
        if hear(store, stop, patient=patient):
            heard.set()
        return heard.is_set()

    with monkeypatch.context() as patch:
        patch.setattr(TrainLog, "step", asked)
        patch.setattr(attendance, "hear", hearing)
        patch.setattr(attendance, "CANCEL_SECONDS", 0.02)
        with pytest.raises(
            Interrupted, match=r"cancelled on request; .*halved keeps its last checkpoint"
        ) as caught:
            run(halved)
    assert caught.value.code == ExitCode.CANCELLED
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.step, seen.checkpoint) == ("interrupted", step, step)
    assert f"going on from step {step}" in run(halved)[1]
    seen = look(store)
    assert seen is not None
    assert (seen.state, seen.cancel_requested, len(seen.measured)) == ("complete", None, 2)
    a, b = (weightsfile.digest(tmp_path / name / "last.safetensors") for name in ("whole", "halved"))
    assert a == b


def losses_of(output: Path) -> list[dict[str, float]]:
    """Each step's figures, without its times."""
    return [
        {k: v for k, v in step.items() if k not in ("seconds", "wait")}
        for step in read_log(Store.open(str(output)))
    ]


def test_a_training_that_is_told_to_end_keeps_its_last_step(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec_of(scenes, tmp_path / "whole"))
    stepped = TrainLog.step

    def ending(log: TrainLog, step: int, terms: dict[str, float]) -> None:
        stepped(log, step, terms)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainLog, "step", ending)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; .* go on from it") as caught:
        run(spec_of(scenes, tmp_path / "ended"))
    assert caught.value.code == ExitCode.TERMINATED
    assert (tmp_path / "ended" / "checkpoints" / "000000003.json").is_file()
    monkeypatch.setattr(TrainLog, "step", stepped)
    _, said = run(spec_of(scenes, tmp_path / "ended"))
    assert "going on from step 3" in said
    whole, ended = (weightsfile.digest(tmp_path / name / "last.safetensors") for name in ("whole", "ended"))
    assert whole == ended


def test_short_runs_come_to_the_end_together(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of them lasts until the next checkpoint."""
    stepped = TrainLog.step

    def at_leisure(log: TrainLog, step: int, terms: dict[str, float]) -> None:
        time.sleep(0.02)  # 60 steps last longer than the timeout, however fast the machine
        stepped(log, step, terms)

    monkeypatch.setattr(TrainLog, "step", at_leisure)
    long = ("training.steps=60", "training.checkpoint_steps=100")
    spec = spec_of(scenes, tmp_path / "out", SMALL, "timeout: 1s\n", 96, 0, *long)
    with pytest.raises(Interrupted, match="longer than timeout, 1 s; ") as caught:
        run(spec)
    assert caught.value.code == ExitCode.LIMIT
    for _ in range(200):
        with suppress(Interrupted):
            run(spec)
            break
    assert (tmp_path / "out" / "summary.json").is_file()


def test_a_step_whose_measuring_failed_is_measured_by_who_goes_on(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Judge, training: object) -> None:
        raise SampleError("gone.jpg: there is no such image")

    measure = Judge.measure
    monkeypatch.setattr(Judge, "measure", failing)
    with pytest.raises(SampleError):
        run(spec_of(scenes, tmp_path / "out"))
    monkeypatch.setattr(Judge, "measure", measure)
    _, said = run(spec_of(scenes, tmp_path / "out"))
    assert "going on from step 2" in said
    measured = [json.loads(line) for line in (tmp_path / "out" / "measured.jsonl").read_text().splitlines()]
    assert [m["step"] for m in measured] == [2, 4]


def test_of_one_that_diverges_the_remedy_is_one_that_is_taken(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(scenes, tmp_path / "out")

    def diverges(*_: object) -> None:
        raise FloatingPointError("11 steps in a row")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.train.learn", diverges)
        with pytest.raises(JobError, match=r"lower training\.learning_rate, and name another output") as told:
            run(spec)
        assert "model.weights" not in str(told.value), "nothing was measured yet"
        last = tmp_path / "out" / "last.safetensors"
        last.write_bytes(tiny_weights(tmp_path).read_bytes())
        with pytest.raises(JobError, match=f"model.weights: {last}"):
            run(spec)
    advised = spec_of(
        scenes, tmp_path / "again", f"  weights: {last}\n", "", 96, 0, "training.learning_rate=1e-4"
    )
    assert run(advised)[0]["step"]


def test_of_a_damaged_checkpoint_the_remedy_is_told(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out")
    interrupted(spec, 4)
    [tensors] = (tmp_path / "out" / "checkpoints").glob("000000002-*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"000000002\.json is damaged .* remove it"):
        run(spec)
    (tmp_path / "out" / "checkpoints" / "000000002.json").unlink()
    run(spec)
    assert (tmp_path / "out" / "summary.json").exists()


def test_it_leaves_a_summary_pictures_and_event_files(scenes: Path, tmp_path: Path) -> None:
    run(spec_of(scenes, tmp_path / "out", samples=2))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["steps"] == 4
    assert 0 <= summary["data_wait"] < 1
    assert summary["images_per_second"] > 0
    pictures = sorted(p.name for p in (tmp_path / "out" / "samples").iterdir())
    assert pictures == ["0-000000002.jpg", "0-000000004.jpg", "1-000000002.jpg", "1-000000004.jpg"]
    events = sorted((tmp_path / "out" / "tensorboard").iterdir())
    assert [path.name.startswith("events.out.tfevents") for path in events] == [True, True]
    assert all(path.read_bytes().count(b"loss/mask") == 2 for path in events)
    notes = weightsfile.read_notes(tmp_path / "out" / "best.safetensors")
    assert notes["parent"] == "none"
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert notes["training"] == record["fingerprint"]


def test_a_spec_survives_its_way_to_a_worker(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out", more="workers: {count: 2}\n")
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_from_other_weights_classes_are_matched_by_name(scenes: Path, tmp_path: Path) -> None:
    start = tiny_weights(tmp_path)
    _, said = run(spec_of(scenes, tmp_path / "out", f"  weights: {start}\n"))
    shared = [name for name in CATEGORIES if name in CLASSES]
    assert ("keeps " + ", ".join(shared) in said) == bool(shared)
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    new, dropped = ([n for n in names if n not in shared] for names in (CATEGORIES, CLASSES))
    assert record["classes"] == {"kept": shared, "new": new, "dropped": dropped}
    assert condinst.load(tmp_path / "out" / "last.safetensors").config.classes == CATEGORIES


def test_a_held_out_part_is_measured_and_not_learned_from(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out")
    data = DataSection(train=spec.data.train, held_out=0.5)
    found, said = run(spec.model_copy(update={"data": data}))
    names = [i["file_name"] for i in json.loads((scenes / "truth.json").read_text())["images"]]
    held = [name for name in names if held_out(name, 0.5)]
    assert 0 < len(held) < len(names)
    assert found["images"] == len(held)
    assert f"on {len(names) - len(held)} images" in said


def test_a_held_out_truth_is_that_of_the_json(scenes: Path) -> None:
    exam = held_exam(Samples([SampleSource(f"{scenes}/truth.json", f"{scenes}/images")], hold=0.5))
    given = given_exam(ExamSection(uri=f"{scenes}/images", annotations=f"{scenes}/truth.json"), CATEGORIES)
    ids = {row["file_name"]: row["id"] for _, row in given.images}
    for _, row in exam.images:
        ours = exam.truth.loadAnns(exam.truth.getAnnIds(row["id"]))
        theirs = given.truth.loadAnns(given.truth.getAnnIds(ids[row["file_name"]]))
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert one["area"] == other["area"]
            assert np.array_equal(exam.truth.annToMask(one), given.truth.annToMask(other))


def test_the_truth_held_out_is_left_for_others(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out")
    _, said = run(spec.model_copy(update={"data": DataSection(train=spec.data.train, held_out=0.5)}))
    assert f"{tmp_path}/out/held_out.json; its images start at {scenes}/images" in said
    section = ExamSection(uri=f"{scenes}/images", annotations=f"{tmp_path}/out/held_out.json")
    held = held_exam(Samples([SampleSource(f"{scenes}/truth.json", f"{scenes}/images")], hold=0.5))
    assert given_exam(section, CATEGORIES).digest == held.digest


def test_images_held_out_of_several_folders_start_above_them(scenes: Path, tmp_path: Path) -> None:
    sources = [SampleSource(f"{part}/truth.json", f"{part}/images") for part in (scenes, scenes / "val")]
    exam = held_exam(Samples(sources, hold=0.5))
    store = Store.open(str(tmp_path))
    assert put_held_truth(exam, store) == str(scenes)
    given = given_exam(ExamSection(uri=str(scenes), annotations=f"{tmp_path}/held_out.json"), CATEGORIES)
    assert {row["file_name"].rpartition("/")[0] for _, row in given.images} == {"images", "val/images"}
    for number in range(len(given.images)):
        assert np.array_equal(given.read(number), exam.read(number))


@pytest.mark.parametrize(
    ("uris", "root"),
    [
        (["s3://b/photos/a", "s3://b/photos/ab/c"], "s3://b/photos"),
        (["s3://b/a", "s3://b/c"], "s3://b"),
        (["s3://b/a", "s3://c/a"], None),
        (["/data/a", "/data"], "/data"),
        (["/data/a", "/mnt/a"], None),
    ],
)
def test_the_nearest_place_above_is_found(uris: list[str], root: str | None) -> None:
    found = common_root(map(Store.open, uris))
    assert (found and found.uri) == root


def test_where_images_share_no_place_no_truth_is_left(scenes: Path, tmp_path: Path) -> None:
    sources = [
        SampleSource(f"{scenes}/truth.json", f"{scenes}/images", options=StoreOptions(profile=profile))
        for profile in (None, "other")
    ]
    assert put_held_truth(held_exam(Samples(sources, hold=0.5)), Store.open(str(tmp_path))) is None
    assert not list(tmp_path.iterdir())


def test_copy_paste_and_several_sources_of_weights(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out")
    heavy = spec.data.train[0].model_copy(update={"weight": 2.5})
    data = spec.data.model_copy(update={"train": (*spec.data.train, heavy)})
    augment = spec.augment.model_copy(update={"copy_paste": 1.0, "more_sizes": (64,)})
    _, said = run(spec.model_copy(update={"data": data, "augment": augment}))
    assert "on 6 images" in said


def test_labels_that_replace_others_are_told(scenes: Path, tmp_path: Path) -> None:
    later = truth_of(scenes, tmp_path / "new.json", lambda truth: truth["images"].pop())
    spec = spec_of(scenes, tmp_path / "out")
    sources = [
        (*spec.data.train, SourceSection(uri=later.uri, annotations=later.annotations, replaces=replaces))
        for replaces in (True, False)
    ]
    _, said = run(with_data(spec, train=sources[0]))
    assert f"new.json takes the place of {scenes}/truth.json for 2 images" in said
    assert "on 3 images" in said
    with pytest.raises(Refused, match=r"data\.train\.1\.replaces: true"):
        run(with_data(spec, train=sources[1]))
    _, said = run(with_data(spec_of(scenes, tmp_path / "both"), train=sources[1]))
    assert f"2 images of {tmp_path}/new.json also in {scenes}/truth.json" in said
    assert "on 5 images" in said


def test_what_replaces_nothing_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="first source of train: there is none before it"):
        spec_of(scenes, tmp_path / "out", SMALL, "", 96, 0, "data.train.replaces=true")


def test_boxes_alone_train_with_boxinst(scenes: Path, tmp_path: Path) -> None:
    spec = spec_of(scenes, tmp_path / "out", SMALL, "loss: {mask: boxinst, boxinst: {warmup_steps: 2}}\n")
    boxes = spec.data.train[0].model_copy(update={"boxes_only": True})
    data = spec.data.model_copy(update={"train": (boxes,)})
    run(spec.model_copy(update={"data": data}))
    assert (tmp_path / "out" / "best.safetensors").exists()


def test_a_truth_without_masks_asks_for_boxinst(scenes: Path, tmp_path: Path) -> None:
    truth = json.loads((scenes / "truth.json").read_text())
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "boxes.json").write_text(json.dumps(truth))
    spec = spec_of(scenes, tmp_path / "out")
    source = spec.data.train[0].model_copy(update={"annotations": str(tmp_path / "boxes.json")})
    data = spec.data.model_copy(update={"train": (source,)})
    with pytest.raises(JobError, match=r"set loss\.mask to boxinst"):
        run(spec.model_copy(update={"data": data}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "more", "size", "expected"),
    [
        (SMALL, "loss: {semantic: true}\n", 96, "loss.semantic needs model.mask.semantic"),
        (SMALL, "loss: {semantic: true, mask: boxinst}\n", 96, "learns from masks"),
        (SMALL + "  weights: demo\n", "", 96, "cannot be chosen: the network is that of `weights`"),
        (SMALL, "loss: {mask: dicee}\n", 96, "expected one of dice, bce, dice_bce, boxinst"),
        (SMALL.replace("channels: 16}", "channels: 0}"), "", 96, "model.fpn.channels: 0 was given"),
        (SMALL, "", 100, "a multiple of 32"),
        (SMALL, "loss: {mask: boxinst}\n", 0, "augment.copy_paste needs masks"),
        (SMALL, "workers: {count: 3}\n", 96, "a batch of 2 cannot be shared by 3 workers in 1 parts"),
        (SMALL, "workers: {count: 1, gpus: 1}\n", 96, "device: cuda and workers.gpus go together"),
        (SMALL, "device: cuda\nworkers: {count: 2, gpus: 0.5}\n", 96, "nccl takes no two workers on one GPU"),
        (SMALL, f"seed: {2**63}\n", 96, "seed: "),
        (SMALL, "workers: {count: 2, least: 3}\n", 96, "workers.least is more than workers.count"),
    ],
)
def test_faults_of_a_spec_are_told(model: str, more: str, size: int, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=expected):
        spec_of(tmp_path, tmp_path / "out", model, more, size)


def test_float16_is_refused_where_no_gpu_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"precision: float16 is for device: cuda; on processors give bfloat16"
    ):
        spec_of(tmp_path, tmp_path / "out", SMALL, "", 96, 0, "training.precision=float16")


def test_groups_that_do_not_divide_are_told(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"head\.groups=5 must divide"):
        run(spec_of(scenes, tmp_path / "out", SMALL.replace("groups: 4", "groups: 5")))


def test_workers_are_asked_for_as_the_spec_says(scenes: Path, tmp_path: Path) -> None:
    more = (
        "device: cuda\nworkers: {count: 2, cpus: 3, gpus: 1}\nenv: {AWS_REGION: eu-north-1}\n"
        "resources: {gpus: 1, memory: 2Gi, accelerator: L4}\n"
    )
    spec = spec_of(scenes, tmp_path / "out", more=more)
    assert spec.workers is not None
    group = _group(spec, spec.workers)
    assert (group.count, group.cpus, group.memory, group.accelerator) == (2, 3, 2 * 2**30, "L4")
    assert group.env == {"AWS_REGION": "eu-north-1"}


def test_what_limits_and_reserves_is_no_other_training(scenes: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "out"))
    config = ModelConfig(classes=CATEGORIES)
    assert claim(store, spec_of(scenes, tmp_path / "out"), config, {}, {})
    more = "timeout: 6h\nmax_gpu_hours: 2\nretries: 3\nresources: {cpus: 2}\nschedule: {cron: '@daily'}\n"
    changed = spec_of(scenes, tmp_path / "out", more=more)
    assert not claim(store, changed, config, {}, {})
    # As versions wrote it that took these for a part of it.
    record = json.loads(store.get("train.json"))
    record["settings"] |= {"timeout": None, "resources": {"cpus": 1}}
    store.put("train.json", json.dumps({**record, "fingerprint": "another"}).encode())
    assert not claim(store, changed, config, {}, {})
    with pytest.raises(Refused, match="batch"):
        claim(store, changed.model_copy(update={"batch": 3}), config, {}, {})


@pytest.fixture
def own_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what `log_json` adds be gone after the test."""
    for logger in (structured._log, logging.getLogger()):
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))


@pytest.mark.usefixtures("own_loggers")
def test_a_training_is_told_in_lines_of_json(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(spec_of(scenes, tmp_path / "out").model_dump_json(exclude_unset=True))
    done = CliRunner().invoke(cli.app, ["train", str(path)], env={"CONDINST_JSON_LOGS": "1"})
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.stdout.splitlines()]
    names = [line["event"] for line in told if line["event"] not in ("log", "step")]
    assert names == ["start", "measured", "checkpoint", "measured", "checkpoint", "complete"]
    assert all({"time", "level", "event"} <= set(line) for line in told)
    by_name = {line["event"]: line for line in told}
    assert (by_name["start"]["steps"], by_name["step"]["step"], by_name["checkpoint"]["step"]) == (4, 4, 4)
    assert by_name["step"]["losses"]["class"] > 0
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert (by_name["complete"]["ap"], by_name["complete"]["step"]) == (best["ap"], best["step"])
    assert (by_name["complete"]["bad_images"], by_name["complete"]["bad_val_images"]) == (0, 0)


@pytest.mark.usefixtures("own_loggers")
def test_what_became_of_the_weights_classes_is_an_event(scenes: Path, tmp_path: Path) -> None:
    here = io.StringIO()
    structured.log_json(here)
    run(spec_of(scenes, tmp_path / "out", f"  weights: {tiny_weights(tmp_path)}\n"))
    [told] = [
        line for text in here.getvalue().splitlines() if (line := json.loads(text))["event"] == "classes"
    ]
    record = json.loads((tmp_path / "out" / "train.json").read_text())
    assert {key: told[key] for key in ("kept", "new", "dropped")} == record["classes"]
    assert told["new"]


@pytest.mark.usefixtures("own_loggers")
def test_events_of_workers_are_passed_on_and_other_words_are_warnings() -> None:
    here = io.StringIO()
    structured.log_json(here)
    structured.relay('{"event": "step", "step": 3}\nworker 1 ended; going back\n')
    lines = [json.loads(line) for line in here.getvalue().splitlines()]
    assert lines[0] == {"event": "step", "step": 3}
    assert (lines[1]["event"], lines[1]["message"]) == ("warning", "worker 1 ended; going back")


def with_data(spec: TrainSpec, **changed: object) -> TrainSpec:
    return spec.model_copy(update={"data": spec.data.model_copy(update=changed)})


def truth_of(scenes: Path, to: Path, change: Callable[[dict], object]) -> ExamSection:
    """The scenes with a changed truth."""
    truth = json.loads((scenes / "truth.json").read_text())
    change(truth)
    to.write_text(json.dumps(truth))
    return ExamSection(uri=f"{scenes}/images", annotations=str(to))


def test_images_that_are_measured_on_are_not_learned_from(scenes: Path, tmp_path: Path) -> None:
    def first_only(truth: dict) -> None:
        truth["images"] = truth["images"][:1]

    val = truth_of(scenes, tmp_path / "val.json", first_only)
    spec = with_data(spec_of(scenes, tmp_path / "out"), val=val)
    _, said = run(spec)
    assert "1 image of data.train also in data.val" in said
    assert "on 2 images" in said
    with pytest.raises(SampleError, match="all of them are measured on"):
        run(with_data(spec_of(scenes, tmp_path / "none"), val=spec.data.train[0]))
    with pytest.raises(Refused, match=r"digests\.left out"):
        run(with_data(spec, val=spec_of(scenes, tmp_path / "out").data.val))


def broken(scenes: Path, to: Path, *numbers: int) -> Path:
    """The scenes once more, some of their images gone, cut or of another size."""
    shutil.copytree(scenes, to)
    for part in ("", "val"):
        names = [image["file_name"] for image in json.loads((to / part / "truth.json").read_text())["images"]]
        for number in numbers:
            (to / part / "images" / names[number]).write_bytes(b"\xff\xd8\xff cut")
    return to


def test_a_bad_image_is_left_out_and_told_once(scenes: Path, tmp_path: Path) -> None:
    folder = broken(scenes, tmp_path / "scenes", 1)
    _, said = run(spec_of(folder, tmp_path / "out"))
    assert said.count("data.train: left out: ") == said.count("data.val: left out: ") == 1
    assert "2 images that could not be used" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["bad_images"], summary["bad_val_images"]) == (1, 1)
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["images"] == 2


def test_a_training_without_some_images_goes_on_as_if_it_had_not_ended(scenes: Path, tmp_path: Path) -> None:
    folder = broken(scenes, tmp_path / "scenes", 0)
    whole, halved = (spec_of(folder, tmp_path / name) for name in ("whole", "halved"))
    run(whole)
    interrupted(halved, 4)
    _, said = run(halved)
    assert "going on from step 2" in said
    assert said.count("data.train: left out: ") == 1
    a, b = (weightsfile.digest(tmp_path / name / "last.safetensors") for name in ("whole", "halved"))
    assert a == b


def test_too_many_bad_images_end_it_and_more_may_be_allowed(scenes: Path, tmp_path: Path) -> None:
    folder = broken(scenes, tmp_path / "scenes", 0)
    shutil.copytree(scenes / "val", folder / "val", dirs_exist_ok=True)
    with pytest.raises(TooManyBad, match=r"data\.train: 1 of 3 .* data\.max_bad \(0\) allows 0:\n"):
        run(spec_of(folder, tmp_path / "out", SMALL, "", 96, 0, "data.max_bad=0"))
    run(spec_of(folder, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["bad_images"] == 1


def test_bad_images_to_measure_on_are_found_before_the_first_step(scenes: Path, tmp_path: Path) -> None:
    folder = broken(scenes, tmp_path / "scenes", 0, 1)
    with pytest.raises(TooManyBad, match=r"data\.val: 2 of 3 images cannot be used"):
        run(spec_of(folder, tmp_path / "out"))
    assert not (tmp_path / "out" / "log").exists()


def test_sources_keep_their_counts_when_images_leave(scenes: Path) -> None:
    source = SampleSource(f"{scenes}/truth.json", f"{scenes}/images")
    other = SampleSource(f"{scenes}/val/truth.json", f"{scenes}/val/images")
    samples = Samples([source, other])
    names = [image["file_name"] for image in json.loads((scenes / "truth.json").read_text())["images"]]
    store = Store.open(f"{scenes}/images")
    assert samples.leave_out((store, f"./{name}") for name in names[:2]) == 2
    assert samples.counts == (1, 3)
    assert samples.leave_out([(store, "other.png")]) == 0


def test_a_val_that_is_not_there_is_named_by_its_key(scenes: Path, tmp_path: Path) -> None:
    val = ExamSection(uri=f"{scenes}/images", annotations=str(tmp_path / "none.json"))
    with pytest.raises(JobError, match=r"^data\.val\.annotations: there is no .*/none\.json$"):
        given_exam(val, ("plant",))


def test_categories_that_are_no_class_are_not_measured(scenes: Path, tmp_path: Path) -> None:
    val = ExamSection(uri=f"{scenes}/images", annotations=f"{scenes}/truth.json")
    truth = json.loads((scenes / "truth.json").read_text())
    found = {a["category_id"] for a in truth["annotations"]}
    assert len(found) > 1
    name = next(c["name"] for c in truth["categories"] if c["id"] in found)
    others = tuple(c["name"] for c in truth["categories"] if c["name"] != name)
    exam = given_exam(val, (name,))
    assert exam.ignored == others
    perfect = evaluate(exam.truth, [{**a, "score": 1.0} for a in exam.truth.dataset["annotations"]])
    assert perfect.ap == pytest.approx(1)
    assert list(perfect.ap_by_class) == [name]
    spec = with_data(spec_of(scenes, tmp_path / "out"), classes=(name,))
    assert f"no class of the model: {', '.join(others)}" in run(spec)[1]
    empty = truth_of(scenes, tmp_path / "empty.json", lambda truth: truth["annotations"].clear())
    with pytest.raises(JobError, match="has no instance of"):
        given_exam(empty, CATEGORIES)


def test_annotations_of_images_that_are_not_listed_are_told(scenes: Path, tmp_path: Path) -> None:
    def two_images(truth: dict) -> None:
        truth["images"] = truth["images"][:2]
        gone = [a for a in truth["annotations"] if a["image_id"] not in [i["id"] for i in truth["images"]]]
        assert gone

    labels = truth_of(scenes, tmp_path / "two.json", two_images)
    source = SourceSection(uri=labels.uri, annotations=labels.annotations)
    _, said = run(with_data(spec_of(scenes, tmp_path / "out"), train=(source,)))
    assert "two.json: left out: " in said
    assert "annotations of images that it does not list" in said


@pytest.mark.parametrize("workers", ["", "workers: {count: 2, gpus: 1}\n"])
def test_who_only_starts_workers_needs_no_gpu(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    devices: list[str] = []

    def seen(spec: TrainSpec, console: Console, device: str) -> None:
        devices.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.train.material", seen)
    more = f"device: {'cuda' if workers else 'cpu'}\n{workers}"
    with pytest.raises(KeyboardInterrupt):
        run(spec_of(scenes, tmp_path / "out", more=more))
    assert devices == ["cpu"]


class Mailbox:
    """Stands for the actor; nothing is sent."""

    put = Mock()


def payload_of(spec: TrainSpec, **more: object) -> dict[str, object]:
    given = material(spec, Console(quiet=True), "cpu")
    usual = {"digests": given.digests, "start": given.start, "mailbox": Mailbox, "width": 80, "json": False}
    return {"spec": spec.model_dump_json(), "stopping": lambda: False, **usual, **more}


def test_a_worker_refuses_labels_that_changed_meanwhile(scenes: Path, tmp_path: Path) -> None:
    labels = truth_of(scenes, tmp_path / "truth.json", lambda _: None)
    source = SourceSection(uri=labels.uri, annotations=labels.annotations)
    spec = with_data(spec_of(scenes, tmp_path / "out"), train=(source,))
    payload = payload_of(spec)
    truth_of(scenes, tmp_path / "truth.json", lambda truth: truth["annotations"].pop())
    with pytest.raises(Refused, match=r"changed while the training ran:\n.*truth\.json") as told:
        work(payload)
    assert recurs(told.value)


def test_a_promotion_changes_no_training_at_work(scenes: Path, tmp_path: Path) -> None:
    models = Models(Store.open(str(tmp_path / "models")))
    first = tiny_weights(tmp_path).read_bytes()
    current = models.move(models.add(first, {}), None, "first")
    spec = spec_of(scenes, tmp_path / "out", f"  weights: {tmp_path}/models/current.json\n")
    payload = payload_of(spec)
    models.move(models.add(b"another", {}), current, "better")
    work(payload)
    assert weightsfile.read_notes(tmp_path / "out" / "last.safetensors")["parent"] == current.sha256


def test_only_the_first_process_keeps_steps(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("condinst.parallel.rank", lambda: 1)
    store = Store.open(str(tmp_path / "out"))
    log = TrainLog(spec_of(scenes, tmp_path / "out"), CATEGORIES, store, Console(quiet=True))
    log.step(1, {"mask": 1.0, "lr": 0.1, "norm": 1.0, "skipped": 0.0, "seconds": 1.0, "wait": 0.0})
    assert not log._steps
    assert not log._recent


def test_each_flush_puts_its_own_events_and_all_of_them(tmp_path: Path) -> None:
    board = Board(Store.open(str(tmp_path)), 0)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    for step in (1, 2, 3):
        for number in range(50):
            board.scalars(step, {f"curve/{step}/{number}/": 1.0})
        board.picture(step, "val/0", picture)
        board.flush()
    board.close()
    board.close()
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert len(files) == 3
    for step, path in enumerate(files, start=1):
        data = path.read_bytes()
        assert data.count(f"curve/{step}/".encode()) == 50
        assert data.count(b"curve/") == 50
        assert data.count(b"val/0") == 1
    assert not Path(board._folder.name).exists()
