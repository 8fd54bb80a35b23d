"""Thresholds and filters by class: applied before any limit, checked by name, part of a job's fingerprint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_detect import head_output

from condinst import weights, weightsfile
from condinst.config import DetectConfig, ModelConfig
from condinst.detect import detect
from jobs.check import load_text
from jobs.errors import JobError, SpecError
from jobs.resolve import settings_of
from pipeline.model import detect_config, load_model
from tests.tiny import CLASSES, picture, tiny_model, tiny_weights

NAMES = ("leaf", "tree")


def found(config: DetectConfig, places: dict[tuple[int, int, int], float]) -> list[tuple[int, int]]:
    """(index, class) of what is detected, best first."""
    out = detect(head_output(places), [(64, 64)], config, NAMES)
    return list(zip(out.index.tolist(), out.classes.tolist(), strict=True))


def test_a_filtered_class_uses_up_no_budget() -> None:
    places = {(0, n, 0): 5.0 for n in range(0, 60, 2)} | {(0, n, 1): 1.0 for n in range(1, 60, 2)}
    config = DetectConfig(nms_iou=1.0, pre_nms_top_k=10, max_instances=5)
    assert {c for _, c in found(config, places)} == {0}
    only_tree = found(config.model_copy(update={"classes": ("tree",)}), places)
    assert only_tree == [(n, 1) for n in range(1, 10, 2)]


def test_a_class_has_its_own_threshold_and_others_the_common_one() -> None:
    places = {(0, 3, 0): 0.0, (0, 40, 1): 0.0, (0, 20, 0): 3.0}  # scores sqrt of 0.5, 0.5, 0.95
    assert len(found(DetectConfig(), places)) == 3
    strict = DetectConfig(class_thresholds={"leaf": 0.75})
    assert found(strict, places) == [(20, 0), (40, 1)]
    lenient = DetectConfig(score_threshold=0.9, class_thresholds={"tree": 0.2})
    assert found(lenient, places) == [(20, 0), (40, 1)]


@given(
    seed=st.integers(0, 1000),
    common=st.floats(0, 1),
    own=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1)),
    classes=st.none() | st.lists(st.sampled_from(NAMES), min_size=1).map(tuple),
    score=st.sampled_from(["product", "sqrt_product"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_what_exceeds_its_class_threshold(seed, common, own, classes, score) -> None:
    torch.manual_seed(seed)
    output = head_output({})
    output.logits[0] = torch.randn(1, 2, 8, 8) * 3
    config = DetectConfig(
        score_threshold=common,
        class_thresholds=own,
        classes=classes,
        candidate_threshold=0.0,
        score=score,
        nms_iou=1.0,
        max_instances=1000,
    )
    out = detect(output, [(64, 64)], config, NAMES)
    kept = set(zip(out.level.tolist(), out.index.tolist(), out.classes.tolist(), strict=True))
    for level, logits in enumerate(output.logits):
        measure = logits[0].sigmoid() * output.quality[level][0].sigmoid()
        if score == "sqrt_product":
            measure = measure.sqrt()
        for c, name in enumerate(NAMES):
            allowed = classes is None or name in classes
            threshold = torch.tensor(own.get(name, common))
            for index, value in enumerate(measure[c].flatten()):
                assert ((level, index, c) in kept) == (allowed and bool(value > threshold))


def test_an_unknown_class_is_an_error_that_names_the_known_ones() -> None:
    for config in (DetectConfig(classes=("leef",)), DetectConfig(class_thresholds={"leef": 0.5})):
        with pytest.raises(ValueError, match="no class 'leef'; it has leaf, tree"):
            detect(head_output({}), [(64, 64)], config, NAMES)
    with pytest.raises(ValueError, match="no class 'leef'; it has leaf, tree"):
        ModelConfig(classes=NAMES, detect=DetectConfig(classes=("leef",)))


def test_predict_holds_to_the_settings() -> None:
    model = tiny_model()
    image = picture(1)
    every = model.predict([image])[0]
    present = {CLASSES[c] for c in every.classes}
    assert len(present) > 1
    name = sorted(present)[0]
    config = model.config.detect.model_copy(update={"classes": (name,)})
    only = model.predict([image], config)[0]
    assert len(only) > 0
    assert {CLASSES[c] for c in only.classes} == {name}


def test_the_settings_travel_in_a_weights_file(tmp_path: Path) -> None:
    model = tiny_model()
    detect = DetectConfig(class_thresholds={"stone": 0.5, "plant": 0.1}, classes=("stone", "plant"))
    model.config = model.config.model_copy(update={"detect": detect})
    weights.save(model, tmp_path / "w.safetensors")
    assert weightsfile.read_config(tmp_path / "w.safetensors").detect == detect
    stored = json.loads(detect.model_dump_json())
    assert stored["class_thresholds"] == {"plant": 0.1, "stone": 0.5}
    assert pickle.loads(pickle.dumps(detect)) == detect
    assert hash(detect) == hash(DetectConfig.model_validate(stored))


SPEC = (
    "kind: segment\nname: a\ninput: {uri: x}\noutput: {uri: y}\nmodel: {weights: %s, score_threshold: 0.4}\n"
)


def test_a_job_spec_reaches_the_model_and_its_fingerprint(tmp_path: Path) -> None:
    text = SPEC % tiny_weights(tmp_path)
    plain = settings_of(load_text(text, "s"))
    prints = {plain.fingerprint()}
    for argument in ("model.class_thresholds={stone: 0.5}", "model.classes=[stone]", "model.classes=plant"):
        prints.add(settings_of(load_text(text, "s", [argument])).fingerprint())
    assert len(prints) == 4
    stated = ["model.class_thresholds={stone: 0.5, plant: 0.2}", "model.classes=[stone, plant]"]
    settings = settings_of(load_text(text, "s", stated))
    config = detect_config(load_model(settings), settings)
    assert config.thresholds(CLASSES) == (0.2, 0.5, float("inf"))
    other_order = ["model.class_thresholds={plant: 0.2, stone: 0.5}", "model.classes=[plant, stone, plant]"]
    assert settings_of(load_text(text, "s", other_order)).fingerprint() == settings.fingerprint()
    nothing = settings_of(load_text(text, "s", ["model.class_thresholds={}"]))
    assert nothing.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("argument", ["model.classes=[fern]", "model.class_thresholds.fern=0.5"])
def test_a_job_for_an_unknown_class_is_refused(tmp_path: Path, argument: str) -> None:
    spec = load_text(SPEC % tiny_weights(tmp_path), "s", [argument])
    with pytest.raises(JobError, match="no class 'fern'; it has plant, stone, roof"):
        settings_of(spec)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.class_thresholds.leaf=2", ".leaf: 2 was given; expected a number from 0 to 1"),
        ("model.class_thresholds=3", "expected a mapping of names to a number from 0 to 1"),
        ("model.classes=[]", "a list of 0 was given"),
    ],
)  # fmt: skip
def test_bad_values_are_told_as_the_spec_is_read(argument: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(SPEC % "demo", "s", [argument])
    assert message in str(caught.value)


def test_the_score_to_exceed_is_the_jobs_or_the_weights(tmp_path: Path) -> None:
    text = SPEC % tiny_weights(tmp_path)
    assert settings_of(load_text(text, "s")).score_threshold == 0.4
    stricter = settings_of(load_text(text, "s", ["model.class_thresholds={stone: 0.7, plant: 0.1}"]))
    assert stricter.job_record()["score_threshold"] == 0.7
    only = settings_of(load_text(text, "s", ["model.class_thresholds={stone: 0.7}", "model.classes=[plant]"]))
    assert only.score_threshold == 0.4
    model = tiny_model()
    model.config = model.config.model_copy(update={"detect": DetectConfig(score_threshold=0.35)})
    weights.save(model, tmp_path / "own.safetensors")
    unstated = (SPEC % (tmp_path / "own.safetensors")).replace(", score_threshold: 0.4", "")
    assert settings_of(load_text(unstated, "s")).score_threshold == 0.35
    assert DetectConfig().highest_threshold(NAMES) == pytest.approx(0.05**0.5)
    assert DetectConfig(threshold_on="class").highest_threshold(NAMES) == 0.0
