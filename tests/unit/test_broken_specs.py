"""Broken specs: each of them one clear message with its place, and no input at all a traceback."""

# ruff: noqa: E501 (an error and its expectation belong on one line)

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.check import load_job
from jobs.conventions import JobSpec
from jobs.errors import SpecError
from jobs.filling import Surroundings
from jobs.resolve import settings_of
from jobs.spec import SegmentSpec
from jobs.train_spec import TrainSpec

GOOD = """\
kind: segment
name: beds
input: {uri: "s3://photos/beds"}
output: {uri: "s3://masks/beds"}
workers: {count: 2, gpus: 1, cpus: 4}
schedule: {cron: "30 2 * * *", timezone: Europe/Tallinn}
timeout: 6h
secrets: [AWS_SECRET_ACCESS_KEY]
env: {AWS_REGION: eu-north-1}
"""
TIME = "expected a time such as 90s, 30m, 6h or 1h30m"

BROKEN = {
    # typos
    "a key": ("workers:", "wrokers:", "5:1: wrokers: unknown key; did you mean workers?"),
    "a key below": ("gpus", "gpu", "5:21: workers.gpu: unknown key; did you mean gpus?"),
    "a key of elsewhere": ("timeout: 6h", "cron: x", "7:1: cron: unknown key here; did you mean schedule.cron?"),
    "a schedule's key": ("timezone", "time_zone", "6:32: schedule.time_zone: unknown key; did you mean timezone?"),
    "a kind": ("segment", "segmnt", "1:7: kind: the text 'segmnt' was given; expected one of segment, train"),
    "a choice": ("Tallinn}", "Tallinn, overlap: skpi}", "6:67: schedule.overlap: the text 'skpi' was given; expected one of skip, queue"),
    "a time zone": ("Tallinn", "Talin", "6:42: schedule.timezone: there is no time zone 'Europe/Talin'; did you mean Europe/Tallinn?"),
    "a city": ("Europe/Tallinn", "tallinn", "6:42: schedule.timezone: there is no time zone 'tallinn'; did you mean Europe/Tallinn?"),
    "a scheme": ("s3://photos", "s4://photos", "3:14: input.uri: s4:// cannot be read; use a folder or s3://, gs://, az://, file:// (a server that speaks S3: s3://bucket/... with endpoint)"),
    # wrong types
    "text for a number": ("count: 2", 'count: "2"', "5:18: workers.count: the text '2' was given; expected a whole number from 1 to 10,000"),
    "half a worker": ("count: 2", "count: 2.5", "5:18: workers.count: 2.5 was given; expected a whole number from 1 to 10,000"),
    "a number for a time": ("6h", "6", f"7:10: timeout: 6 was given; {TIME}"),
    "a list for a mapping": ('{cron: "30 2 * * *", timezone: Europe/Tallinn}', "[daily]", "6:11: schedule: a list of 1 was given; expected a mapping with cron, timezone, overlap, suspend"),
    "text for a list": ("[AWS_SECRET_ACCESS_KEY]", "AWS_SECRET_ACCESS_KEY", "8:10: secrets: the text 'AWS_SECRET_ACCESS_KEY' was given; expected a list, each text"),
    "a number for a variable": ("eu-north-1", "1", "9:19: env.AWS_REGION: 1 was given; expected text"),
    "a word for a switch": ("Tallinn}", "Tallinn, suspend: yes}", "6:67: schedule.suspend: the text 'yes' was given; expected true or false"),
    # impossible values
    "no worker": ("count: 2", "count: 0", "5:18: workers.count: 0 was given; expected a whole number from 1 to 10,000"),
    "two numbers of workers": ("count: 2", "count: 2, min: 1, max: 3", "5:10: workers: give count, or min and max, not both"),
    "half a range": ("count: 2", "min: 1", "5:10: workers: min and max come together; for a fixed number give count"),
    "a range upside down": ("count: 2", "min: 4, max: 3", "5:10: workers: min 4 is above max 3"),
    "a GPU and a half": ("gpus: 1", "gpus: 1.5", "5:27: workers.gpus: 1.5 was given; expected 1 or less: a worker's model is on one GPU; for more GPUs give more workers"),
    "a kind of no GPU": ("gpus: 1", "accelerator: L4", "5:10: workers: accelerator L4 without gpus: give both or neither"),
    "memory without a unit": ("cpus: 4", "memory: 16", "5:38: workers.memory: 16 was given; expected a size such as 16Gi or 500Mi"),
    "a time of nothing": ("6h", "0s", f"7:10: timeout: the text '0s' was given; {TIME}"),
    "more than all": ("timeout: 6h", "max_failed: 101%", "7:13: max_failed: the text '101%' was given; expected a share of the inputs such as 1% or 0.5%, or a number of inputs such as 100"),
    "a price below nothing": ("timeout: 6h", "price_per_gpu_hour: -1", "7:21: price_per_gpu_hour: -1 was given; expected a number from 0 to 10,000"),
    "a budget of nothing": ("timeout: 6h", "max_gpu_hours: 0", "7:16: max_gpu_hours: 0 was given; expected a number, above 0, at most 10,000,000"),
    # cron
    "four fields": ("30 2 * * *", "30 2 * *", '6:18: schedule.cron: has 4 fields; a cron expression has five: minute, hour, day of month, month, day of week, for example "30 2 * * *"'),
    "hour 25": ("30 2 * * *", "30 25 * * *", "6:18: schedule.cron: the hour cannot be '25'; expected *, 0 to 23, a range such as 0-4, or a step such as */2"),
    "30 February": ("30 2 * * *", "0 0 30 2 *", "6:18: schedule.cron: never fires: none of its months has such a day"),
    "both days": ("30 2 * * *", "0 0 1 * mon", "6:18: schedule.cron: a day of the month and a day of the week together: some schedulers then want both, some either; give one of them and * for the other"),
    "a macro": ("30 2 * * *", "@nightly", "6:18: schedule.cron: there is no '@nightly'; expected one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, or five fields"),
    # secrets
    "a missing secret": ("[AWS_SECRET_ACCESS_KEY]", "[AWS_SECRET_ACCESS_KEY, CHAT]", "8:34: secrets.1: CHAT is not set in the environment of this command, or is empty; export it first"),
    "a secret's value": ("AWS_REGION: eu-north-1", "DB_PASSWORD: hunter2", "9:6: env: DB_PASSWORD names a secret: put the name alone under secrets, never a value"),
    "a secret in a URI": ("s3://photos", "s3://${AWS_SECRET_ACCESS_KEY}@photos", "3:14: input.uri: ${AWS_SECRET_ACCESS_KEY} is a secret, and what a spec says is written down; leave it out"),
    "credentials in a URI": ("s3://photos", "s3://key:hunter2@photos", "3:14: input.uri: holds credentials; keep them out of the spec: the environment, a profile or the machine's role"),
    "a secret twice": ("[AWS_SECRET_ACCESS_KEY]", "[AWS_SECRET_ACCESS_KEY, AWS_SECRET_ACCESS_KEY]", "8:10: secrets: AWS_SECRET_ACCESS_KEY stands twice"),
    "a secret in public": ("[AWS_SECRET_ACCESS_KEY]", "[AWS_REGION]", "8:11: secrets.0: AWS_REGION stands under env too, where its value is public; leave it out there"),
    "a secret that is no name": ("[AWS_SECRET_ACCESS_KEY]", "[a b]", "8:11: secrets.0: 'a b' is no name of an environment variable; expected letters, digits and _"),
    # webhooks
    "no address": ("timeout: 6h", "notify: {on: end}", "7:9: notify: expected webhook or webhook_secret, one of them"),
    "an address with a key": ("timeout: 6h", 'notify: {webhook: "https://h/x?key=hunter2"}', "7:19: notify.webhook: holds credentials; give the name of a secret that holds the address: webhook_secret"),
    "an unlisted secret": ("timeout: 6h", "notify: {webhook_secret: CHAT}", "7:26: notify.webhook_secret: CHAT is not among secrets; add it there"),
    # extends
    "a circle": ("kind: segment", "extends: spec.yaml\nkind: segment", "1:10: extends: goes round in a circle: spec.yaml extends spec.yaml"),
    "no base": ("kind: segment", "extends: spek.yaml\nkind: segment", "1:10: extends: there is no file spek.yaml; did you mean spec.yaml?"),
    # places of templates
    "an unset variable": ("photos", "${NOWHERE}", "3:14: input.uri: ${NOWHERE} is set neither in the environment nor under env; set it, or write ${NOWHERE:-default}"),
    "an unknown template": ("photos/beds", "photos/{{ today }}", "3:14: input.uri: {{ today }} is not known; there is {{ date }}"),
    "a date in a name": ("name: beds", 'name: "beds-{{ date }}"', "2:7: name: {{ date }} cannot stand here; it can in uri, annotations, run, weights, backbone_weights, include, exclude"),
    # Kubernetes
    "a namespace": ("timeout: 6h", "kubernetes: {namespace: My_Farm}", "7:25: kubernetes.namespace: the text 'My_Farm' was given; expected a Kubernetes name: at most 63 small letters, digits and dashes"),
    "an image": ("timeout: 6h", 'kubernetes: {image: "a b"}', "7:21: kubernetes.image: the text 'a b' was given; expected a container image such as registry.example.com/condinst:1.0"),
    # YAML
    "a tab": ("timeout: 6h", "timeout:\t6h", "7:9: not valid YAML: a tab stands here; use spaces"),
    "a key twice": ("timeout: 6h", "timeout: 6h\ntimeout: 7h", "8:1: timeout: the key stands twice; first on line 7"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> JobSpec:
    Path("spec.yaml").write_text(text)
    return load_job(Path("spec.yaml"), (), Surroundings({"AWS_SECRET_ACCESS_KEY": "x"}, need_secrets=True))


def test_the_spec_that_is_broken_is_good(folder: Path) -> None:
    assert isinstance(read(GOOD), SegmentSpec)
    assert len(BROKEN) >= 30


@pytest.mark.parametrize(("old", "new", "told"), BROKEN.values(), ids=BROKEN)
def test_one_clear_message_with_its_place(folder: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        read(GOOD.replace(old, new, 1))
    assert str(caught.value).splitlines() == [f"spec.yaml:{told}"]
    assert "hunter2" not in str(caught.value)


def test_all_of_them_at_once_and_in_order(folder: Path) -> None:
    text = (
        GOOD.replace("count: 2", "count: 0")
        .replace("30 2", "99 2")
        .replace("6h", "soon")
        .replace("eu-north-1", "1")
    )
    with pytest.raises(SpecError) as caught:
        read(text)
    assert [problem.key for problem in caught.value.problems] == [
        "workers.count", "schedule.cron", "timeout", "env.AWS_REGION"
    ]  # fmt: skip


def test_how_a_job_runs_changes_no_row(folder: Path) -> None:
    """Nothing of these conventions enters the fingerprint: any of them may change between runs."""
    more = """\
timeout: 1h
retries: 3
max_failed: 5%
price_per_gpu_hour: 1.5
max_gpu_hours: 100
env: {AWS_REGION: eu-north-1}
secrets: [AWS_SECRET_ACCESS_KEY]
notify: {webhook: "https://hooks.example.com/x"}
schedule: {cron: "@daily", timezone: Asia/Tokyo, overlap: queue, suspend: true}
kubernetes: {image: "x:1", namespace: n, service_account: s, secret: s, tolerations: [t]}
workers: {min: 1, max: 9, gpus: 1, cpus: 2, memory: 8Gi, accelerator: L4, node_selector: {a: b}, spot: true}
"""
    plain = GOOD.split("workers:")[0]
    few, many = read(f"{plain}workers: {{gpus: 1}}\n"), read(plain + more)
    assert isinstance(few, SegmentSpec)
    assert isinstance(many, SegmentSpec)
    unset = set(JobSpec.model_fields) - many.model_fields_set
    assert unset == {"extends"}, "each convention must be held against the fingerprint here"
    assert set(type(many.workers).model_fields) - many.workers.model_fields_set == {"count"}
    assert settings_of(few).fingerprint() == settings_of(many).fingerprint()


words = st.sampled_from(
    [
        "@daily",
        "30 2 * * *",
        "UTC",
        "6h",
        "16Gi",
        "skip",
        "${HOME}",
        "${X:-y}",
        "{{ date }}",
        "spec.yaml",
        "L4",
        "-1",
        "",
    ]
) | st.text(max_size=12)
leaves = st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | words
keys = st.sampled_from(
    sorted({
        *SegmentSpec.model_fields, *TrainSpec.model_fields,
        *["uri", "include", "cron", "timezone", "overlap", "suspend", "webhook", "webhook_secret", "on", "image", "namespace", "count", "min", "max", "gpus", "cpus", "memory", "accelerator", "node_selector", "spot", "weights", "train", "val", "annotations", "tolerations"],
    })
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(keys | words, below, max_size=5),
    max_leaves=25,
)


@given(kind=st.sampled_from(["segment", "train"]) | words, data=st.dictionaries(keys, trees, max_size=10))
@settings(max_examples=300, deadline=None)
def test_no_spec_makes_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "spec.yaml"
    path.write_text(yaml.safe_dump({**data, "kind": kind}, allow_unicode=True))
    try:
        load_job(path, (), Surroundings({"HOME": "/root"}, need_secrets=True))
    except SpecError as error:
        told = [str(problem) for problem in error.problems]
    else:
        return
    assert told
    assert all(problem.startswith((str(path), "environment")) for problem in told)
