"""How many images a batch has: what is stated, what fits a GPU, and that it stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.check import load_text
from jobs.resolve import settings_of
from jobs.scenes.dataset import write_dataset
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from jobs.try_job import here
from pipeline import batchsize
from pipeline.batchsize import MOST_IMAGES, SHARE, room_for
from pipeline.settings import BATCH_IMAGES, SegmentSettings
from tests.tiny import tiny_weights


def taking(fixed: int, each: int) -> Callable[[int], int]:
    return lambda images: fixed + each * images


@given(free=st.integers(1, 10**12), fixed=st.integers(0, 10**9), each=st.integers(1, 10**10))
def test_a_batch_fits_or_is_one_image(free: int, fixed: int, each: int) -> None:
    area = 800 * 1088
    images, pixels = room_for(free, area, taking(fixed, each))
    assert 1 <= images <= MOST_IMAGES
    assert pixels >= images * area
    if images > 1:
        assert taking(fixed, each)(pixels // area) <= free * SHARE + 1
    if images < MOST_IMAGES and pixels > area:
        assert taking(fixed, each)(images + 1) > free * SHARE - 1


def test_an_image_that_does_not_fit_alone_goes_alone() -> None:
    def peak(images: int) -> int:
        raise torch.OutOfMemoryError

    assert room_for(10**9, 1000, peak) == (1, 1000)


def spec_of(folder: Path, **more: object) -> SegmentSpec:
    spec = {
        "kind": "segment",
        "name": "sizes",
        "input": {"uri": str(folder / "images")},
        "model": {"weights": str(folder / "tiny-0.safetensors"), "score_threshold": 0.5},
        "output": {"uri": str(folder / "out")},
        **more,
    }
    return load_text(json.dumps(spec), "sizes.yaml")


def test_auto_is_fixed_without_a_gpu_and_found_with_one(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    assert settings_of(spec_of(tmp_path)).batch_images == BATCH_IMAGES
    assert settings_of(spec_of(tmp_path, batch={"images": 3}, workers={"gpus": 1})).batch_images == 3
    asked = settings_of(spec_of(tmp_path, workers={"gpus": 1}))
    assert asked.batch_images == 0
    assert here(asked).batch_images == BATCH_IMAGES


def test_what_the_first_run_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_weights(tmp_path)
    write_dataset(tmp_path, range(3), 64)
    looks: list[str] = []

    def look(settings: SegmentSettings) -> tuple[int, int]:
        looks.append(settings.model_digest)
        return 5, 123_456

    monkeypatch.setattr(batchsize, "look", look)
    monkeypatch.setattr(SegmentSettings, "device", property(lambda settings: "cpu"))
    spec = spec_of(tmp_path, workers={"gpus": 1}, precision="float32", shards={"images": 2})
    for _ in range(2):
        run_job(spec, local=True, console=Console(quiet=True))
    assert len(looks) == 1
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert (job["settings"]["batch_images"], job["settings"]["batch_pixels"]) == (5, 123_456)
