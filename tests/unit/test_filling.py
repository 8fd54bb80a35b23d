"""`${NAME}` and `{{ date }}`: filled in where it says so, refused elsewhere, never with a secret."""

# ruff: noqa: E501 (an error and its expectation belong on one line)

from __future__ import annotations

import json
import re
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.check import load_text
from jobs.errors import SpecError
from jobs.filling import Surroundings
from jobs.spec import SegmentSpec
from jobs.train_spec import TrainSpec

DAY = date(2026, 11, 28)
GOOD = """\
kind: segment
name: beds
input: {uri: "s3://${BUCKET}/{{ date }}/", include: "{{date}}*.jpg", region: "${REGION:-eu-north-1}"}
output: {uri: "s3://masks/${BUCKET}-{{ date }}"}
env: {BUCKET: farm, HOME_OF: "${HOME}"}
"""


def read(text: str = GOOD, around: Surroundings | None = None, **variables: str) -> SegmentSpec:
    return load_text(
        text, "s.yaml", (), SegmentSpec, around or Surroundings({"HOME": "/root", **variables}, DAY)
    )


def problems(old: str, new: str, **variables: str) -> list[str]:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        read(GOOD.replace(old, new, 1), **variables)
    return str(caught.value).splitlines()


def test_names_and_dates_are_filled_in() -> None:
    spec = read()
    assert spec.input[0].uri == "s3://farm/2026-11-28/"
    assert spec.input[0].include == ("2026-11-28*.jpg",)
    assert spec.input[0].region == "eu-north-1"
    assert spec.output.uri == "s3://masks/farm-2026-11-28"
    assert spec.env == {"BUCKET": "farm", "HOME_OF": "/root"}


def test_what_the_spec_says_under_env_comes_before_the_environment() -> None:
    assert read(BUCKET="other", REGION="eu-west-1").input[0].uri == "s3://farm/2026-11-28/"
    assert read(BUCKET="other", REGION="eu-west-1").input[0].region == "eu-west-1"


def test_the_date_can_wait_for_the_run() -> None:
    kept = read(around=Surroundings({"HOME": "/"}, keep_date=True))
    assert kept.output.uri == "s3://masks/farm-{{ date }}"
    assert kept.input[0].include == ("{{ date }}*.jpg",)


def test_the_day_is_the_starters_else_today_in_the_schedules_zone() -> None:
    given_day = Surroundings({"HOME": "/", "CONDINST_DATE": "2020-02-29"})
    assert read(around=given_day).output.uri == "s3://masks/farm-2020-02-29"
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):  # never the same day
        text = f"{GOOD}schedule: {{cron: '@daily', timezone: {zone}}}\n"
        before = datetime.now(ZoneInfo(zone)).date()
        found = read(text, Surroundings({"HOME": "/"})).output.uri
        assert found in {f"s3://masks/farm-{day}" for day in (before, datetime.now(ZoneInfo(zone)).date())}


def test_a_training_may_learn_from_a_dated_run() -> None:
    text = """\
kind: train
name: nightly
data:
  train: {uri: "s3://farm/{{ date }}/", run: "s3://masks/${FARM}/{{ date }}"}
  val: {uri: "val/{{ date }}", annotations: "val/{{ date }}.json"}
model: {weights: "s3://models/{{ date }}.safetensors"}
output: {uri: "s3://models/new/{{ date }}"}
"""
    spec = load_text(text, "t.yaml", (), TrainSpec, Surroundings({"FARM": "north"}, DAY))
    (source,) = spec.data.train
    assert (source.uri, source.run) == ("s3://farm/2026-11-28/", "s3://masks/north/2026-11-28")
    assert spec.data.val is not None
    assert spec.data.val.annotations == "val/2026-11-28.json"
    assert spec.model.weights == "s3://models/2026-11-28.safetensors"
    kept = load_text(text, "t.yaml", (), TrainSpec, Surroundings({"FARM": "north"}, keep_date=True))
    assert kept.data.train[0].run == "s3://masks/north/{{ date }}"


def test_what_a_variable_holds_is_not_filled_in_again() -> None:
    assert read(HOME="${REGION}{{ date }}").env["HOME_OF"] == "${REGION}{{ date }}"


def test_two_dollars_are_one() -> None:
    assert read(GOOD.replace("${BUCKET}/", "x/$${BUCKET}/")).input[0].uri == "s3://x/${BUCKET}/2026-11-28/"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("s3://${BUCKET}", "s3://${BUKCET}", "s.yaml:3:14: input.uri: ${BUKCET} is set neither in the environment nor under env; set it, or write ${BUKCET:-default}"),
        ("s3://${BUCKET}", "s3://${}", "s.yaml:3:14: input.uri: ${} names no variable; expected ${NAME} or ${NAME:-default}"),
        ("s3://${BUCKET}", "s3://${a-b}", "s.yaml:3:14: input.uri: ${a-b} names no variable; expected ${NAME} or ${NAME:-default}"),
        ("s3://${BUCKET}", "s3://${AWS_SECRET_ACCESS_KEY}", "s.yaml:3:14: input.uri: ${AWS_SECRET_ACCESS_KEY} is a secret, and what a spec says is written down; leave it out"),
        ("s3://${BUCKET}", "s3://${BUCKET", "s.yaml:3:14: input.uri: ${ is not closed; expected ${NAME}, {{ date }}, or $${ for ${"),
        ("{{date}}*", "{{ date }*", "s.yaml:3:53: input.include: {{ is not closed; expected ${NAME}, {{ date }}, or $${ for ${"),
        ("{{date}}*", "{{ dat }}*", "s.yaml:3:53: input.include: {{ dat }} is not known; did you mean {{ date }}?"),
        ("{{date}}*", "{{ now() }}*", "s.yaml:3:53: input.include: {{ now() }} is not known; there is {{ date }}"),
        ("name: beds", 'name: "${HOME}"', "s.yaml:2:7: name: ${HOME} cannot stand here; it can under env, and in uri, annotations, run, weights, backbone_weights, include, exclude, endpoint, region, profile, webhook, image, namespace, service_account"),
        ("${REGION:-eu-north-1}", "{{ date }}", "s.yaml:3:78: input.region: {{ date }} cannot stand here; it can in uri, annotations, run, weights, backbone_weights, include, exclude"),
        ("BUCKET: farm", 'BUCKET: "${MISSING}"', "s.yaml:5:15: env.BUCKET: ${MISSING} is set neither in the environment nor under env; set it, or write ${MISSING:-default}"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_in(old: str, new: str, told: str) -> None:
    assert problems(old, new) == [told]


def test_a_name_under_secrets_is_never_filled_in() -> None:
    text = GOOD.replace("s3://${BUCKET}/", "s3://x/${PLACE}/") + "secrets: [PLACE]\n"
    with pytest.raises(SpecError, match=re.escape("${PLACE} is a secret")) as caught:
        read(text, PLACE="hunter2")
    assert "hunter2" not in str(caught.value)


def test_missing_secrets_are_told_where_they_are_needed() -> None:
    text = f"{GOOD}secrets: [PLACE, EMPTY, THERE]\n"
    variables = {"HOME": "/", "EMPTY": "", "THERE": "x"}
    assert read(text, Surroundings(variables, DAY)).secrets == ("PLACE", "EMPTY", "THERE")
    with pytest.raises(SpecError) as caught:
        read(text, Surroundings(variables, DAY, need_secrets=True))
    assert str(caught.value).splitlines() == [
        "s.yaml:6:11: secrets.0: PLACE is not set in the environment of this command, or is empty; export it first",
        "s.yaml:6:18: secrets.1: EMPTY is not set in the environment of this command, or is empty; export it first",
    ]


def test_a_day_that_is_none() -> None:
    with pytest.raises(SpecError, match="CONDINST_DATE: 'tomorrow' is no day"):
        read(around=Surroundings({"HOME": "/", "CONDINST_DATE": "tomorrow"}))


@given(st.text(alphabet="${}ab:- date_A\n\"'", max_size=40))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    document = json.dumps(
        {"kind": "segment", "name": "x", "input": {"uri": f"a{text}"}, "output": {"uri": "o"}}
    )
    try:
        found = read(document).input[0].uri
    except SpecError as caught:
        told = caught.problems
    else:
        # Nothing is left over but what was escaped.
        assert found.count("${") == text.count("$${")
        return
    assert len(told) == 1
