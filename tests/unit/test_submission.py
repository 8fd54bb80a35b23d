"""What is submitted for a spec: the same id for the same job, everything absolute, nothing secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray.dashboard.modules.job.pydantic_models import JobDetails
from typer.testing import CliRunner

from jobs import cli, submitting
from jobs.check import load_job
from jobs.cluster_jobs import (
    ADDRESS_VARIABLES,
    DriverNeeds,
    JobServer,
    NoSuchJob,
    attempt_id,
    earlier_attempts,
    last_attempt,
)
from jobs.errors import JobError
from jobs.spec import SegmentSpec
from jobs.submit import Submission

SPEC = """
kind: segment
name: fields
input: {uri: photos, include: "*.jpg"}
model: {weights: demo}
output: {uri: "s3://masks/fields"}
"""


def submission(folder: Path, text: str = SPEC, *overrides: str) -> Submission:
    path = folder / "job.yaml"
    path.write_text(text)
    return Submission.of(load_job(path, overrides))


def test_the_same_job_has_the_same_id_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = submission(tmp_path)
    assert plain.id.startswith("fields-")
    stated = submission(tmp_path, SPEC + "shards: {images: 1000}\nworkers: {count: 1, gpus: 0}\n")
    assert stated.id == plain.id, "a default that is stated is no other job"
    turned = submission(tmp_path, "\n".join(reversed(SPEC.strip().splitlines())))
    assert turned.id == plain.id
    (tmp_path / "base.yaml").write_text("model: {weights: demo}\noutput: {uri: 's3://masks/fields'}\n")
    short = "\n".join(line for line in SPEC.splitlines() if not line.startswith(("model", "output")))
    assert submission(tmp_path, short + "\nextends: base.yaml\n").id == plain.id
    for change in ("name=other", "shards.images=7", "output.uri=s3://masks/more", "workers.count=2"):
        assert submission(tmp_path, SPEC, change).id != plain.id, change


def test_the_spec_that_is_sent_is_whole_and_read_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sent = submission(tmp_path)
    assert yaml.safe_load(sent.text)["input"][0]["uri"] == str(tmp_path / "photos")
    assert sent.local_places() == [str(tmp_path / "photos")]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert submission(elsewhere, sent.text).id == sent.id
    assert sent.metadata["output"] == "s3://masks/fields"
    assert sent.driver is None


def test_every_place_is_made_absolute_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
kind: segment
name: fields
input: {uri: photos, area: fields.geojson}
model: {weights: weights.safetensors}
tiling: {size: 512, overlap: 64}
output: {uri: "s3://masks/fields"}
env: {run: fast, uri: plain}
workers: {node_selector: {area: north}}
"""
    sent = submission(tmp_path, text)
    assert sent.local_places() == [
        str(tmp_path / name) for name in ("fields.geojson", "photos", "weights.safetensors")
    ]
    document = yaml.safe_load(sent.text)
    assert document["env"] == {"run": "fast", "uri": "plain"}, "the user's own names are no places"
    assert document["workers"]["node_selector"] == {"area": "north"}
    text = """
kind: train
name: again
data:
  train: {uri: photos, run: masks}
  held_out: 0.1
output: {uri: "s3://models/again"}
"""
    sent = submission(tmp_path, text)
    assert sent.local_places() == [str(tmp_path / "masks"), str(tmp_path / "photos")]
    assert yaml.safe_load(sent.text)["data"]["train"][0]["run"] == str(tmp_path / "masks")


def test_what_stands_for_itself_is_sent_so_that_it_does_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("raw", "of the machine that reads it")
    monkeypatch.setenv("DAY", "${raw}")
    text = """
kind: segment
name: fields
input: {uri: "photos/$${raw}", include: ["$${raw}*.jpg", "${DAY}/*.png"]}
output: {uri: "s3://masks/$${raw}"}
env: {PATTERN: "$${raw}", NUMBER: "1e3"}
"""
    sent = submission(tmp_path, text)
    (tmp_path / "sent.yaml").write_text(sent.text)
    read = load_job(tmp_path / "sent.yaml")
    assert isinstance(read, SegmentSpec)
    assert read.input[0].include == ("${raw}*.jpg", "${raw}/*.png")
    assert (read.output.uri, read.env["PATTERN"]) == ("s3://masks/${raw}", "${raw}")
    assert read.env["NUMBER"] == "1e3", "text, though YAML 1.2 takes it for a number without quotes"
    assert sent.local_places() == [str(tmp_path / "photos/${raw}")]
    assert sent.metadata["output"] == "s3://masks/${raw}"
    assert Submission.of(read).id == sent.id


def test_names_of_secrets_are_sent_and_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example.com/very-secret")
    sent = submission(
        tmp_path, SPEC + "secrets: [HOOK]\nnotify: {webhook_secret: HOOK}\nenv: {AWS_REGION: eu-north-1}\n"
    )
    assert "very-secret" not in sent.text + str(sent.metadata) + sent.entrypoint
    assert "HOOK" in sent.text


TRAIN = """
kind: train
name: learn
data: {train: {uri: photos, annotations: t.json}, held_out: 0.2}
output: {uri: "s3://models/learn"}
"""


def test_a_training_of_one_process_gets_what_it_asks_for(tmp_path: Path) -> None:
    asked = "resources: {cpus: 4, gpus: 1, memory: 16Gi, accelerator: L4}\ndevice: cuda\n"
    driver = submission(tmp_path, TRAIN + asked).driver
    assert driver == DriverNeeds(4, 1, 16 * 2**30, "L4")
    plain = submission(tmp_path, TRAIN + "device: cuda\n").driver
    assert plain == DriverNeeds(1, 1)
    assert submission(tmp_path, TRAIN + "workers: {count: 2}\n").driver is None


def test_a_cluster_is_told_what_the_driver_needs() -> None:
    server, asked = JobServer.__new__(JobServer), []

    class Client:
        def submit_job(self, **given: object) -> None:
            asked.append({name: value for name, value in given.items() if name.startswith("entrypoint_")})

    server.address, server.client = "http://head:8265", Client()  # type: ignore[assignment]
    for driver in (None, DriverNeeds(2), DriverNeeds(4, 1, 2**30, "L4")):
        assert server.submit("learn-1", "exec true", {}, {}, driver)
    assert asked == [
        {},
        {
            "entrypoint_num_cpus": 2,
            "entrypoint_num_gpus": 0,
            "entrypoint_memory": None,
            "entrypoint_resources": None,
        },
        {
            "entrypoint_num_cpus": 4,
            "entrypoint_num_gpus": 1,
            "entrypoint_memory": 2**30,
            "entrypoint_resources": {"accelerator_type:L4": 0.001},
        },
    ]


@given(st.lists(st.integers(1, 12), max_size=6), st.text("ab-0123456789", min_size=1, max_size=8))
def test_the_last_attempt_is_found_among_other_jobs(attempts: list[int], other: str) -> None:
    base = "fields-0123456789ab"
    known = [attempt_id(base, number) for number in attempts]
    noise = [f"x{base}", f"{base}x", f"{base}-{other}x", "raysubmit_abc", f"other-{base}-3"]
    assert last_attempt(base, [*known, *noise]) == max(attempts, default=0)


def test_earlier_attempts_are_those_of_the_same_submission() -> None:
    base = "fields-0123456789ab"
    known = [f"{base}-10", f"{base}-2", base, f"{base}-3", "other-0123456789ab", f"{base}-12", f"{base}x-4"]
    assert earlier_attempts(f"{base}-10", known) == [base, f"{base}-2", f"{base}-3"]
    assert earlier_attempts(base, known) == []
    assert earlier_attempts("nightly-20261025T003000Z-123456", [*known, "nightly-20261025T003000Z"[:7]]) == []


class Cluster:
    """Stands for a job server."""

    address = "http://head:8265"

    def __init__(self, *ids: str) -> None:
        self.jobs = [
            JobDetails(type="SUBMISSION", submission_id=id_, status="FAILED", entrypoint="") for id_ in ids
        ]

    def all(self) -> list[JobDetails]:
        return self.jobs

    def get(self, submission_id: str) -> JobDetails:
        return next(job for job in self.jobs if job.submission_id == submission_id)


def test_status_shows_all_attempts_of_the_spec_as_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    plain, changed = submission(tmp_path).id, submission(tmp_path, SPEC, "shards.images=7").id
    cluster = Cluster(f"{changed}-2", f"{plain}-2", plain, changed, f"{changed}-3")
    monkeypatch.setattr(submitting, "JobServer", lambda address: cluster)
    spec = str(tmp_path / "job.yaml")
    submitting.show_job(spec, None, ["shards.images=7"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["job", changed, f"{changed}-2", f"{changed}-3"]
    submitting.show_job(f"{plain}-2", None)
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["job", plain, f"{plain}-2"]
    with pytest.raises(NoSuchJob, match=r"--set shards.images as it is now .*each --set"):
        submitting.show_job(spec, None, ["shards.images=8"])
    with pytest.raises(JobError, match="--set changes a spec"):
        submitting.show_job(plain, None, ["shards.images=8"])


@pytest.mark.parametrize("command", ["status", "logs", "cancel"])
def test_jobs_takes_set_as_submit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    given: list[object] = []
    for name in ("show_job", "show_log", "cancel_submitted"):
        monkeypatch.setattr(submitting, name, lambda *told, **_: given.extend(told))
    done = CliRunner().invoke(cli.app, ["jobs", command, "job.yaml", "--set", "a=1", "--set", "b=2"])
    assert (done.exit_code, given) == (0, ["job.yaml", None, ["a=1", "b=2"]])


@pytest.mark.parametrize("address", ["head:8265", "ftp://head", "http://", "http://user:pw@head:8265"])
def test_what_is_no_address_is_refused_before_anything_is_asked(address: str) -> None:
    with pytest.raises(JobError, match="--address") as caught:
        JobServer(address)
    assert "pw@" not in str(caught.value)


def test_without_an_address_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(JobError, match="missing; give the cluster's job server"):
        JobServer()
