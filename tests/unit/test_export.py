"""The dense part exported and compiled gives what the model gives."""

from __future__ import annotations

import io

import pytest
import torch

import condinst
from condinst.detect import detect
from condinst.export import DensePart, export_dense
from tests.tiny import tiny_model

SIZE = (64, 96)


def close(ours: dict[str, list[torch.Tensor]], theirs: dict[str, list[torch.Tensor]]) -> None:
    assert ours.keys() == theirs.keys()
    for name, maps in ours.items():
        for a, b in zip(maps, theirs[name], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=["as trained", "folded"])
def model(request) -> condinst.CondInst:
    model = tiny_model()
    return model.optimize_for_inference() if request.param == "folded" else model


@torch.no_grad()
def test_the_maps_are_what_detection_and_masks_need(model) -> None:
    x = torch.randn(1, 3, *SIZE)
    dense, maps = model.dense(x), DensePart(model)(x)
    found = detect(dense.head, [SIZE], model.config.detect)
    assert len(found) > 5
    parameters = model.generate(dense.head, found)
    for n in range(len(found)):
        own = maps["parameters"][int(found.level[n])][0].flatten(1)[:, int(found.index[n])]
        torch.testing.assert_close(own, parameters[n], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_exported_program_agrees_for_any_number_of_images(model) -> None:
    program = export_dense(model, SIZE)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 3):
        x = torch.randn(count, 3, *SIZE)
        close(loaded(x), DensePart(model)(x))


def test_a_size_that_needs_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        export_dense(tiny_model(), (64, 100))


@torch.no_grad()
def test_the_graph_is_whole() -> None:
    model = tiny_model()
    x = torch.randn(2, 3, *SIZE)
    compiled = torch.compile(DensePart(model), backend="eager", fullgraph=True)
    close(compiled(x), DensePart(model)(x))
