"""How many images a batch has: what is stated, what fits a GPU, and that it stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from condinst.config import DetectConfig
from condinst.instances import Instances
from condinst.model import CondInst
from condinst.precision import quickest_precision
from condinst.preprocess import Prepared
from jobs.check import load_text
from jobs.resolve import settings_of
from jobs.scenes.dataset import write_dataset
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from jobs.try_job import here
from pipeline import batchsize
from pipeline.batchsize import MOST_IMAGES, SHARE, look, room_for
from pipeline.settings import ANY_PIXELS, BATCH_IMAGES, BATCH_PIXELS, SegmentSettings
from tests.tiny import tiny_weights


def taking(fixed: int, each: int) -> Callable[[int], int]:
    return lambda images: fixed + each * images


@given(free=st.integers(1, 10**12), fixed=st.integers(0, 10**9), each=st.integers(1, 10**10))
def test_a_batch_fits_or_is_one_image(free: int, fixed: int, each: int) -> None:
    images = room_for(free, taking(fixed, each))
    assert 1 <= images <= MOST_IMAGES
    if images > 1:
        assert taking(fixed, each)(images) <= free * SHARE + 1
    if images < MOST_IMAGES:
        assert taking(fixed, each)(images + 1) > free * SHARE - 1


@given(most=st.integers(0, 100))
def test_what_does_not_fit_when_it_is_tried_is_halved(most: int) -> None:
    """A GPU that runs out of memory long before what two and four images take foretells it."""
    tried: list[int] = []

    def peak(images: int) -> int | None:
        tried.append(images)
        return images if images <= most else None

    found = room_for(1000, peak)
    assert 1 <= found <= max(most, 1)
    assert found == 1 or found in tried
    assert max(most, 1) < 2 * found or found == MOST_IMAGES or most < 4


def test_a_first_run_that_takes_more_than_was_foretold_is_not_settled_for() -> None:
    assert room_for(100, lambda images: images if images <= 4 else 4 * images) == 15


class Gpu:
    """What `measured` asks of CUDA."""

    def __init__(self, free: int, capability: tuple[int, int] = (9, 0)) -> None:
        self.free, self.capability, self.peak = free, capability, 0

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, self.free

    def empty_cache(self) -> None: ...

    def reset_peak_memory_stats(self) -> None:
        self.peak = 0

    def memory_allocated(self) -> int:
        return 0

    def max_memory_allocated(self) -> int:
        return self.peak

    def is_available(self) -> bool:
        return True

    def get_device_capability(self) -> tuple[int, int]:
        return self.capability


def looked(
    gpu: Gpu, spec: SegmentSpec, monkeypatch: pytest.MonkeyPatch, each: int
) -> tuple[SegmentSettings, list[int]]:
    """What `look` decides on a GPU where an image takes `each` bytes; and the batches that it tried."""
    ran: list[int] = []

    def predict(model: CondInst, batch: Sequence[Prepared], config: DetectConfig) -> list[Instances]:
        assert (config.candidate_threshold, config.score_threshold, config.nms_iou) == (0, 0, 1)
        ran.append(len(batch))
        gpu.peak = each * len(batch)
        if gpu.peak > gpu.free:
            raise RuntimeError("CUDA error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")
        return []

    for name in (name for name in vars(Gpu) if not name.startswith("_")):
        monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    monkeypatch.setattr(CondInst, "predict_prepared", predict)
    monkeypatch.setattr(SegmentSettings, "device", property(lambda settings: "cpu"))
    monkeypatch.setattr(batchsize, "quickest_precision", lambda device: quickest_precision("cuda"))
    return look(settings_of(spec)), ran


def test_pixels_bind_and_a_share_of_a_gpu_is_a_share_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_weights(tmp_path)
    area = 3008 * 4000  # the tiny weights' scale is fixed: what is tried has a photograph's size
    for gpus, images in ((1, 12), (0.5, 6)):
        spec = spec_of(tmp_path, workers={"gpus": gpus})
        found, ran = looked(Gpu(2000), spec, monkeypatch, each=100)
        assert (found.batch_images, found.batch_pixels) == (MOST_IMAGES, images * area)
        assert ran == [1, 2, 4, images], "the first run warms up and counts for nothing"
    found, _ = looked(Gpu(10**6), spec, monkeypatch, each=100)
    assert found.batch_pixels == MOST_IMAGES * area


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bfloat16"), ((7, 5), "float16")])
def test_a_workers_gpu_decides_on_auto(
    capability: tuple[int, int], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_weights(tmp_path)
    spec = spec_of(tmp_path, workers={"gpus": 1}, batch={"images": 3}, precision="auto")
    assert settings_of(spec).undecided
    found, ran = looked(Gpu(10**6, capability), spec, monkeypatch, each=100)
    assert (found.precision, found.batch_images, found.undecided) == (precision, 3, False)
    assert not ran, "the batch is stated: there is nothing to try"


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
    stated = spec_of(tmp_path, batch={"images": 3}, workers={"gpus": 1})
    assert settings_of(stated).batch_images == 3
    assert settings_of(stated).batch_pixels == ANY_PIXELS, "a CPU's bound is none of a GPU's"
    ran = {"settings": {"batch_images": 3, "batch_pixels": BATCH_PIXELS}}
    assert settings_of(stated, ran).batch_pixels == BATCH_PIXELS, "an output keeps what it was made with"
    stated = spec_of(tmp_path, batch={"images": 3})
    assert settings_of(stated).batch_pixels == BATCH_PIXELS
    asked = settings_of(spec_of(tmp_path, workers={"gpus": 1}))
    assert asked.batch_images == 0
    assert here(asked, Console(quiet=True)).batch_images == BATCH_IMAGES


def test_what_the_first_run_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_weights(tmp_path)
    write_dataset(tmp_path, range(3), 64)
    looks: list[str] = []

    def look(settings: SegmentSettings) -> SegmentSettings:
        looks.append(settings.model_digest)
        return replace(settings, batch_images=5, batch_pixels=123_456)

    monkeypatch.setattr(batchsize, "look", look)
    monkeypatch.setattr(SegmentSettings, "device", property(lambda settings: "cpu"))
    spec = spec_of(tmp_path, workers={"gpus": 1}, precision="float32", shards={"images": 2})
    for _ in range(2):
        run_job(spec, local=True, console=Console(quiet=True))
    assert len(looks) == 1
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert (job["settings"]["batch_images"], job["settings"]["batch_pixels"]) == (5, 123_456)
