"""Convolutions that are compiled: the same outputs, whatever came before, and never a lost image."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor
from torch._dynamo.utils import counters

from condinst.compiled import Compiled, CompileError
from pipeline.engine import run_local
from tests.job import settings_of, start
from tests.tiny import encoded, picture, tiny_weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch._dynamo.reset()
    counters.clear()


def smooth(x: Tensor, scale: Tensor | None = None) -> list[Tensor]:
    once = torch.nn.functional.avg_pool2d(x, 3, 1, 1).relu()
    return [once, once.mean((2, 3)) if scale is None else once * scale[:, None, None, None]]


def test_one_graph_for_one_image_and_one_for_any_more_whatever_the_order() -> None:
    sizes = [(1, 32), (3, 32), (2, 32), (8, 32), (1, 64), (5, 64)]
    batches = {size: torch.randn(size[0], 3, size[1], 32) for size in sizes}
    found = []
    for order in (sizes, sizes[::-1]):
        torch._dynamo.reset()
        counters.clear()
        compiled = Compiled(smooth, CPU)
        before = counters["stats"]["unique_graphs"]  # of the trial
        found.append({size: compiled(batches[size]) for size in order})
        assert counters["stats"]["unique_graphs"] - before == 4
    for size, batch in batches.items():
        for one, other, plain in zip(found[0][size], found[1][size], smooth(batch), strict=True):
            assert torch.equal(one, other)
            assert torch.allclose(one, plain, atol=1e-6)
    given = compiled(batches[3, 32], torch.full((3,), 2.0))
    assert torch.allclose(given[1], smooth(batches[3, 32])[0] * 2, atol=1e-6)


def test_a_thread_compiles_more_sizes_than_torch_would_by_itself() -> None:
    """As a worker's does, which another thread has made the model for."""

    def twice(x: Tensor) -> Tensor:
        return x * 2

    compiled, found = Compiled(twice, CPU), []

    def run() -> None:
        found.extend(bool((compiled(torch.ones(2, size)) == 2).all()) for size in range(4, 14))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert found == [True] * 10
    assert counters["stats"]["unique_graphs"] == 1 + 10


def test_errors_of_the_function_are_its_own() -> None:
    def wrong(x: Tensor) -> Tensor:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        Compiled(wrong, CPU)(torch.ones(2, 4))


def test_what_does_not_compile_is_computed_as_it_is_and_told_once() -> None:
    def asks(x: Tensor) -> Tensor:
        return x * 2 if bool((x > 0).all()) else x  # what no graph holds

    compiled = Compiled(asks, CPU)
    with pytest.warns(UserWarning, match="not compiled, which costs time alone"):
        assert torch.equal(compiled(torch.ones(2, 4)), torch.full((2, 4), 2.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(-torch.ones(3, 4)), -torch.ones(3, 4))
    with pytest.warns(UserWarning, match="not compiled"):
        compiled(torch.ones(2, 5))


def test_what_computes_something_else_is_not_used_and_told_once() -> None:
    """As torch 2.13 does where ATEN_CPU_CAPABILITY names less than the processor has."""
    compiled, batch = Compiled(smooth, CPU), torch.randn(3, 3, 8, 8)
    right = compiled._compiled
    calls = []

    def wrong(x: Tensor) -> list[Tensor]:
        calls.append(x)
        return [right(x)[0], right(x)[1] + 1]

    compiled._compiled = wrong
    with pytest.warns(UserWarning, match="what was compiled computes something else"):
        found = compiled(batch)
    for one, plain in zip(found, smooth(batch), strict=True):
        assert torch.equal(one, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(batch)[1], smooth(batch)[1])
    assert len(calls) == 1


def test_without_a_compiler_it_says_what_to_do() -> None:
    with (
        inductor.patch({"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}),
        pytest.raises(CompileError, match=r"C\+\+ compiler.*No working.*Debian: g\+\+.*`compile: false`"),
    ):
        Compiled(smooth, CPU)


def test_a_job_may_compile_and_is_another_job_then(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(picture(number)))
    weights, inputs = tiny_weights(tmp_path), str(tmp_path / "in")
    jobs = {}
    for compiles in (False, True):
        settings = settings_of(inputs, weights, str(tmp_path / f"{compiles}"), compile=compiles)
        jobs[compiles] = start(settings)
        run_local(settings, jobs[compiles].pending, on_result=lambda result: None)
        assert counters["stats"]["unique_graphs"] == (
            2 if compiles else 0
        )  # the trial's, and that of its size
    plain, quick = (jobs[each].rows()[1].to_pylist() for each in (False, True))
    assert len(plain) == len(quick) > 0
    for one, other in zip(plain, quick, strict=True):
        assert one["image_id"] == other["image_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert jobs[False].settings.fingerprint() != jobs[True].settings.fingerprint()
