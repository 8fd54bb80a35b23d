"""A job for GPUs on a machine without: refused where it would fail, said where it runs all the same."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jobs.check import load_text
from jobs.errors import JobError
from jobs.preview import preview
from jobs.retry import retry_output
from jobs.retrying import Wanted
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from jobs.try_job import try_job
from pipeline.storage import StoreOptions
from tests.job import settings_of, start
from tests.tiny import pictures, tiny_weights

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
ON_THE_CPU = "workers.gpus is 1, but torch finds no CUDA device here: the model runs on the CPU in float32"


@pytest.fixture
def spec(tmp_path: Path) -> SegmentSpec:
    """A job of one GPU a worker."""
    given = {
        "kind": "segment",
        "name": "x",
        "input": {"uri": str(pictures(tmp_path / "in", 2))},
        "model": {"weights": str(tiny_weights(tmp_path))},
        "output": {"uri": str(tmp_path / "out")},
        "workers": {"gpus": 1},
    }
    return load_text(json.dumps(given), "job.yaml")


def test_a_run_in_this_process_names_the_key_and_leaves_no_trace(spec: SegmentSpec, tmp_path: Path) -> None:
    said = "^workers.gpus: torch finds no CUDA device here; --set workers.gpus=0 runs the job on the CPU$"
    with pytest.raises(JobError, match=said):
        run_job(spec, local=True, console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_retry_in_this_process_does_too(spec: SegmentSpec, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    source, weights = str(tmp_path / "in"), tmp_path / "tiny-0.safetensors"
    job = start(settings_of(source, weights, str(tmp_path / "out"), gpus=1.0, detect={}, batch_images=1))
    with pytest.raises(JobError, match=r"^workers\.gpus: torch finds no CUDA device here; leave out --local"):
        retry_output(str(tmp_path / "job.yaml"), StoreOptions(), Wanted(frozenset({"corrupt"}), local=True))
    assert not list(job.store.list("commits/"))


def test_a_look_on_this_machine_says_where_the_model_runs(spec: SegmentSpec, tmp_path: Path) -> None:
    for look in (
        lambda console: preview(spec, console, check=True),
        lambda console: try_job(spec, 1, tmp_path / "drawn", console),
    ):
        console = Console(file=io.StringIO(), width=200)
        look(console)
        assert console.file.getvalue().count(ON_THE_CPU) == 1  # type: ignore[attr-defined]
