"""What `auto` means, and that it is decided once."""

from __future__ import annotations

import pytest
import torch

from condinst.precision import quickest_precision
from jobs.check import load_text
from jobs.resolve import settings_of
from jobs.train_record import settled
from jobs.train_spec import TrainSpec
from pipeline.settings import AUTO

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
    assert settings_of(load_text(SEGMENT, "spec")).precision == precision
    assert (
        settings_of(load_text(SEGMENT, "spec"), {"settings": {"precision": "float16"}}).precision == "float16"
    )
    spec = load_text(TRAIN, "spec", (), TrainSpec)
    assert settled(spec, None).training.precision == precision


@pytest.mark.parametrize(
    ("accelerator", "capability", "precision"),
    [
        (None, None, "bfloat16"),
        (None, (8, 0), "bfloat16"),
        (None, (7, 5), "float16"),
        ("T4", None, "float16"),
        ("V100", (9, 0), "float16"),
        ("H100", (7, 0), "bfloat16"),
    ],
)
def test_gpus_before_bfloat16_take_float16(
    accelerator: str | None,
    capability: tuple[int, int] | None,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert quickest_precision("cuda", accelerator) == precision


def test_a_named_gpu_decides_and_else_a_workers_own() -> None:
    named = SEGMENT + "workers: {gpus: 1, accelerator: T4}\n"
    assert settings_of(load_text(named, "spec")).precision == "float16"
    unnamed = load_text(SEGMENT + "workers: {gpus: 1}\n", "spec")
    assert settings_of(unnamed).precision == AUTO
    assert settings_of(unnamed, {"settings": {"precision": "bfloat16"}}).precision == "bfloat16"


@pytest.mark.parametrize("workers", ["", "workers: {count: 2, gpus: 1}\n"])
@pytest.mark.parametrize(("named", "precision"), [("T4", "float16"), ("L4", "bfloat16")])
def test_a_named_gpu_decides_for_a_training_as_well(named: str, precision: str, workers: str) -> None:
    gpu = f"device: cuda\nresources: {{gpus: 1, accelerator: {named}}}\n{workers}"
    assert settled(load_text(TRAIN + gpu, "spec", (), TrainSpec), None).training.precision == precision


def test_a_training_goes_on_as_it_began() -> None:
    spec = load_text(TRAIN, "spec", (), TrainSpec)
    for began in ("float32", "bfloat16"):
        record = {"settings": {"training": {"precision": began}}}
        assert settled(spec, record).training.precision == began
    stated = load_text(TRAIN + "training: {precision: float32}\n", "spec", (), TrainSpec)
    assert settled(stated, {"settings": {"training": {"precision": "bfloat16"}}}) == stated
