"""A spec is read strictly, its errors are told in the user's words, and no input at all makes a traceback."""

# ruff: noqa: E501 (an error and its expectation belong on one line)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.check import load, load_text
from jobs.errors import SpecError
from jobs.reference import EXAMPLE, json_schema, reference_page
from jobs.spec import SegmentSpec
from jobs.train_spec import TrainSpec

ROOT = Path(__file__).parents[2]
GOOD = """\
kind: segment
name: beds
input: {uri: photos, include: "*.jpg"}
model:
  weights: demo
  score_threshold: 0.3
output: {uri: out}
"""


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, "spec.yaml", overrides)
    return str(caught.value).splitlines()


def test_a_short_spec_has_defaults() -> None:
    spec = load_text(GOOD, "spec.yaml")
    assert spec.shards.images == 1000
    assert spec.precision == "float32"
    assert spec.input[0].include == ("*.jpg",)
    assert spec.model.detect_overrides() == {"score_threshold": 0.3}


def test_several_inputs() -> None:
    spec = load_text(
        GOOD.replace('{uri: photos, include: "*.jpg"}', "[{uri: a}, {uri: b, name: second}]"), "s"
    )
    assert [(source.uri, source.name) for source in spec.input] == [("a", None), ("b", "second")]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("score_threshold", "scoer_threshold", "spec.yaml:6:3: model.scoer_threshold: unknown key; did you mean score_threshold?"),
        ("name: beds", "max_instances: 3\nname: beds", "spec.yaml:2:1: max_instances: unknown key here; did you mean model.max_instances?"),
        ("weights: demo", "zzz: demo", "spec.yaml:5:3: model.zzz: unknown key; expected one of weights, score_threshold, class_thresholds, classes, max_instances, nms_iou, pre_nms_top_k"),
        ("0.3", "1.5", "spec.yaml:6:20: model.score_threshold: 1.5 was given; expected a number from 0 to 1"),
        ("0.3", '"0.3"', "spec.yaml:6:20: model.score_threshold: the text '0.3' was given; expected a number from 0 to 1"),
        ("0.3", "true", "spec.yaml:6:20: model.score_threshold: true was given; expected a number from 0 to 1"),
        ("{uri: out}", "{}", "spec.yaml:7:9: output.uri: missing; expected text"),
        ("name: beds\n", "", "spec.yaml:1:1: name: missing; expected text"),
        ("name: beds", "name: b/d", "spec.yaml:2:7: name: the text 'b/d' was given; expected 1 to 63 letters, digits, dots, dashes or underscores"),
        ("kind: segment", "kind: trian", "spec.yaml:1:7: kind: the text 'trian' was given; expected segment here (train is for `condinst train`, status, top, cancel, submit, jobs, render and schedule)"),
        ("uri: photos", "uri: [1]", "spec.yaml:3:14: input.uri: a list of 1 was given; expected text"),
        ('"*.jpg"', "[a, {}]", "spec.yaml:3:35: input.include.1: a mapping was given; expected text"),
        ("name: beds", "name: beds\nname: again", "spec.yaml:3:1: name: the key stands twice; first on line 2"),
        ("name: beds", "name: !!python/name:os.system x", "spec.yaml:2:7: name: the tag tag:yaml.org,2002:python/name:os.system has no place in a spec; write plain values"),
        ("name: beds", "name: &a [*a]", "spec.yaml:2:7: name.0: an alias that contains itself"),
        ('"*.jpg"', "*.jpg", 'spec.yaml:3:32: `*` begins an alias in YAML; put it in quotes: "*.jpg"'),
        ('"*.jpg"', "[**/*.jpg]", 'spec.yaml:3:33: `*` begins an alias in YAML; put it in quotes: "**/*.jpg"'),
        ("name: beds", "name: *.{a,b} # c", 'spec.yaml:2:8: `*` begins an alias in YAML; put it in quotes: "*.{a,b}"'),
        ("name: beds", "name: *beds", 'spec.yaml:2:7: `*` begins an alias in YAML, and nothing has that name; put it in quotes: "*beds"'),
        ("name: beds", "name: &.a", 'spec.yaml:2:8: `&` begins an anchor in YAML; put it in quotes: "&.a"'),
        ("name: beds", "name: @beds", 'spec.yaml:2:7: `@` cannot begin a value in YAML; put it in quotes: "@beds"'),
        ("name: beds", "name: !beds", "spec.yaml:2:7: name: the tag !beds has no place in a spec; write plain values, text that begins with ! in quotes"),
        ("name: beds", "name: [a\nx", "spec.yaml:4:6: not valid YAML: expected ',' or ']', but got ':'"),
        ("kind: segment", "--- {}\n---", "spec.yaml:2:1: a second document begins; a spec is one document"),
    ],
)  # fmt: skip
def test_an_error_names_place_key_and_remedy(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert problems(GOOD.replace(old, new, 1)) == [expected]


@pytest.mark.parametrize("text", ["", "- a", "3", "just text"])
def test_a_spec_is_a_mapping(text: str) -> None:
    assert "a spec is a mapping" in problems(text)[0]


def test_all_errors_are_told_at_once_in_reading_order() -> None:
    text = GOOD.replace("beds", "b d").replace("weights", "wieghts").replace("0.3", "7") + "precision: fp16\n"
    assert [line.split(":")[1] for line in problems(text)] == ["2", "5", "6", "8"]


def test_an_alias_bomb_is_refused_quickly() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    assert "once aliases are expanded" in problems(bomb)[0]


def test_depth_is_bounded() -> None:
    assert "nested deeper than" in problems("a: " + "[" * 10_000)[0]


def test_a_missing_and_a_binary_file(tmp_path: Path) -> None:
    binary = tmp_path / "spec.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (tmp_path / "none.yaml", "cannot be read: No such file"),
        (binary, "not UTF-8 text"),
    ):
        with pytest.raises(SpecError, match=message):
            load(path)


def test_set_overrides_and_creates() -> None:
    spec = load_text(GOOD, "s", ["model.score_threshold=0.5", "workers.count=3", "input.exclude=[a, b]"])
    assert (spec.model.score_threshold, spec.workers.count, spec.input[0].exclude) == (0.5, 3, ("a", "b"))


def test_set_steps_into_lists_and_repairs_what_the_file_says() -> None:
    text = GOOD.replace('{uri: photos, include: "*.jpg"}', "[{uri: 5}]")
    assert load_text(text, "s", ["input.0.uri=other"]).input[0].uri == "other"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model.score=1", "--set model.score: unknown key; did you mean score_threshold?"),
        ("wokers.count=3", "--set wokers.count: unknown key; did you mean workers?"),
        ("wokers.few.count=3", "--set wokers.few.count: unknown key; did you mean workers?"),
        ("workers.min=3", "--set workers.min: min and max come together; for a fixed number give count"),
        ("workers.count=0", "--set workers.count: 0 was given; expected a whole number from 1 to 10,000"),
        ("input.include=*.jpg", """--set input.include:1:2: `*` begins an alias in YAML; put it in quotes, and these in the shell's: --set input.include='"*..."'"""),
        ("workers.count", "--set workers.count: expected key.path=value, for example model.score_threshold=0.4"),
        ("name.x=1", "--set name.x: there is no 'x' in name, which is the text 'beds'"),
    ],
)  # fmt: skip
def test_a_bad_override_names_its_argument(argument: str, expected: str) -> None:
    assert problems(GOOD, argument) == [expected]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("output.uri", "https://host/x", "https:// cannot be read"),
        ("output.uri", "s3://key:secret@bucket/x", "holds credentials"),
        ("output.uri", "s3:///x", "names no bucket"),
        ("output.endpoint", "http://user:secret@host", "holds credentials"),
        ("output.endpoint", "s3.example.com", "expected the server's address"),
        ("output.endpoint", "http://[bad", "expected the server's address"),
        ("input.columns", "[a]", "belong to a manifest"),
        ("workers.gpus", "1.5", "a worker's model is on one GPU"),
        ("workers.gpus", "2", "for more GPUs give more workers"),
    ],
)
def test_values_that_cannot_work_are_refused(key: str, value: str, message: str) -> None:
    found = problems(GOOD, f"{key}={value}")
    assert message in found[0]
    assert "secret" not in "".join(found)


def test_a_secret_in_a_file_is_not_repeated() -> None:
    found = problems(GOOD.replace("uri: out", "uri: s3://key:hunter2@bucket/x"))
    assert "holds credentials" in found[0]
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(("kind", "page"), [("segment", "spec.md"), ("train", "train-spec.md")])
def test_the_reference_pages_are_up_to_date(kind: str, page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == reference_page(kind), (
        "make it with: condinst schema --markdown > docs/spec.md"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_good_specs(path: Path) -> None:
    kind = TrainSpec if path.name.startswith("train-") else SegmentSpec
    assert isinstance(load(path, (), kind), kind)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_what_is_written_of_a_spec_can_be_read_again(path: Path) -> None:
    """As `condinst retry` reads it from `job.json`."""
    kind = TrainSpec if path.name.startswith("train-") else SegmentSpec
    spec = load(path, (), kind)
    written = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert kind.model_validate(written).model_dump() == spec.model_dump()


def test_the_example_of_the_reference_is_good() -> None:
    assert load_text(EXAMPLE, "example").workers.count == 2


def test_every_key_of_the_schema_is_described() -> None:
    schema = json.loads(json_schema("segment"))
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
        for key, field in section["properties"].items():
            assert field.get("description"), key


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
keys = (
    st.sampled_from([*SegmentSpec.model_fields, "uri", "include", "images", "weights", "count", "gpus"])
    | st.text()
)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=6),
    max_leaves=20,
)


def spec_or_error(text: str, overrides: list[str]) -> None:
    try:
        assert isinstance(load_text(text, "spec.yaml", overrides), SegmentSpec)
    except SpecError as error:
        told = str(error)
    else:
        told = "fine"
    assert told.encode()


@given(st.dictionaries(keys, trees, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_data_gives_a_spec_or_an_error(data: dict[str, object]) -> None:
    spec_or_error(yaml.safe_dump(data, allow_unicode=True), [])


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@`,? \n\t0123.e~<=\\uU\ud800\x85\ufeff")))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_spec_or_an_error(text: str) -> None:
    spec_or_error(text, [])
    spec_or_error(f"{GOOD}extra: {text}", [])


@given(st.text(), st.text())
@settings(max_examples=150, deadline=None)
def test_any_override_gives_a_spec_or_an_error(key: str, value: str) -> None:
    spec_or_error(GOOD, [f"{key}={value}", f"model.weights={value}"])


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_spec_or_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError):
        load(path)


def test_a_spec_of_another_kind_is_told_in_one_line() -> None:
    with pytest.raises(SpecError) as caught:
        load(ROOT / "examples" / "train-kernels.yaml")
    assert str(caught.value).endswith(
        "kind: this is kind: train, for `condinst train`, status, top, cancel, submit, jobs, render and schedule; "
        "the command here is for segment jobs"
    )
    assert len(caught.value.problems) == 1
    with pytest.raises(SpecError, match=r"this is kind: segment, for `condinst run`.* is for train jobs"):
        load(ROOT / "examples" / "mushrooms.yaml", (), TrainSpec)
    with pytest.raises(SpecError, match=r"expected train here \(segment is for `condinst run`, plan, try"):
        load(ROOT / "examples" / "train-kernels.yaml", ["kind=trian"], TrainSpec)
