"""The fingerprint changes with what changes rows, and with nothing else."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from pipeline import settings as module
from pipeline.decode import DecodeLimits
from pipeline.manifest import InputSource
from pipeline.settings import KEEPS_MEMORY, SegmentSettings, difference
from pipeline.storage import StoreOptions

SETTINGS = SegmentSettings(
    output="s3://masks/one",
    sources=(InputSource("s3://images/one"),),
    weights="demo",
    model_digest="d" * 64,
    detect={"score_threshold": 0.3, "max_instances": 300},
)

CHANGES_ROWS = {
    "model_digest": {"model_digest": "e" * 64},
    "precision": {"precision": "bfloat16"},
    "detect.score_threshold": {"detect": {"score_threshold": 0.5, "max_instances": 300}},
    "detect.nms_iou": {"detect": {**SETTINGS.detect, "nms_iou": 0.5}},
    "detect.classes": {"detect": {"score_threshold": 0.3, "max_instances": 300, "classes": ("tree",)}},
    "batch_images": {"batch_images": 4},
    "batch_pixels": {"batch_pixels": 2**20},
    "limits.pixels": {"limits": DecodeLimits(pixels=1000)},
    "threads": {"cpus": 2},
}

LEAVES_ROWS = {
    "output": {"output": "s3://masks/two"},
    "sources": {"sources": (InputSource("s3://images/two"), InputSource("/data", manifest=True))},
    "weights": {"weights": "/a/copy.safetensors"},
    "options": {"output_options": StoreOptions(profile="other"), "weights_options": StoreOptions(region="x")},
    "limits.seconds": {"limits": DecodeLimits(seconds=5)},
    "prefetch": {"prefetch_images": 1, "prefetch_bytes": 1},
    "order of detect": {"detect": dict(reversed(SETTINGS.detect.items()))},
}


@pytest.mark.parametrize("name", CHANGES_ROWS)
def test_what_changes_rows_changes_the_fingerprint_and_is_named(name: str) -> None:
    changed = replace(SETTINGS, **CHANGES_ROWS[name])
    assert changed.fingerprint() != SETTINGS.fingerprint()
    (line,) = difference(SETTINGS.row_settings(), changed.row_settings())
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize("name", LEAVES_ROWS)
def test_what_leaves_rows_leaves_the_fingerprint(name: str) -> None:
    changed = replace(SETTINGS, **LEAVES_ROWS[name])
    assert changed.fingerprint() == SETTINGS.fingerprint()
    assert difference(SETTINGS.row_settings(), changed.row_settings()) == []


def test_results_version_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SETTINGS.fingerprint()
    monkeypatch.setattr(module, "RESULTS_VERSION", module.RESULTS_VERSION + 1)
    assert SETTINGS.fingerprint() != before


def test_a_gpu_makes_the_threads_of_the_cpu_indifferent() -> None:
    gpu = replace(SETTINGS, gpus=1.0)
    assert gpu.device == "cuda"
    assert gpu.fingerprint() == replace(gpu, cpus=8).fingerprint() != SETTINGS.fingerprint()


def test_what_is_recorded_survives_json_and_finds_no_difference() -> None:
    recorded = json.loads(json.dumps(SETTINGS.job_record()))
    assert recorded["fingerprint"] == SETTINGS.fingerprint()
    assert difference(recorded["settings"], SETTINGS.row_settings()) == []
    assert difference(SETTINGS.row_settings(), recorded["settings"]) == []


def test_difference_says_old_and_new_and_what_is_new_altogether() -> None:
    old = {"detect": {"score_threshold": 0.3}, "batch_images": 8}
    new = {"detect": {"score_threshold": 0.5, "nms_iou": 0.6}, "batch_images": 8}
    assert difference(old, new) == [
        "detect.nms_iou: the default -> 0.6",
        "detect.score_threshold: 0.3 -> 0.5",
    ]


def test_settings_travel_to_workers() -> None:
    assert pickle.loads(pickle.dumps(SETTINGS)) == SETTINGS


def test_workers_without_a_gpu_keep_memory_unless_the_spec_says_otherwise() -> None:
    stated = replace(SETTINGS, env={"AWS_REGION": "eu-north-1", "MALLOC_ARENA_MAX": "4"})
    assert stated.process_env == {**KEEPS_MEMORY, "AWS_REGION": "eu-north-1", "MALLOC_ARENA_MAX": "4"}
    assert replace(SETTINGS, gpus=1).process_env == {}
    assert replace(stated, gpus=1).process_env == stated.env
    assert replace(SETTINGS, stitching=True).process_env == {}, "which has no model"
    assert stated.fingerprint() == SETTINGS.fingerprint()
