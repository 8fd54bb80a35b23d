"""What `auto` means, and that it is decided once."""

from __future__ import annotations

import pytest
import torch

from condinst.precision import quickest_precision
from jobs.check import load_text
from jobs.resolve import settings_of
from jobs.train_record import settled
from jobs.train_spec import TrainSpec

TRAIN = """
kind: train
name: x
data: {train: {uri: /images, annotations: /a.json}, val: {uri: /images, annotations: /b.json}}
model: {weights: demo}
output: {uri: /out}
"""
SEGMENT = """
kind: segment
name: x
input: {uri: /in}
model: {weights: demo}
output: {uri: /out}
precision: auto
"""


@pytest.mark.parametrize(
    ("has", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "amx_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    has: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert quickest_precision("cpu") == precision
    assert quickest_precision("cuda") == "bfloat16"
    assert settings_of(load_text(SEGMENT, "spec")).precision == precision
    assert (
        settings_of(load_text(SEGMENT, "spec"), {"settings": {"precision": "float16"}}).precision == "float16"
    )
    spec = load_text(TRAIN, "spec", (), TrainSpec)
    assert settled(spec, None).training.precision == precision


def test_a_training_goes_on_as_it_began() -> None:
    spec = load_text(TRAIN, "spec", (), TrainSpec)
    for began in ("float32", "bfloat16"):
        record = {"settings": {"training": {"precision": began}}}
        assert settled(spec, record).training.precision == began
    stated = load_text(TRAIN + "training: {precision: float32}\n", "spec", (), TrainSpec)
    assert settled(stated, {"settings": {"training": {"precision": "bfloat16"}}}) == stated
