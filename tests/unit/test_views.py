"""Training batches: every example once an epoch, at the model's scale, and nothing breaks on empty images."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from condinst.augment import AugmentConfig, CropMask, Example
from condinst.boxinst import colour_similarity
from condinst.criterion import BoxInstConfig, Criterion, LossConfig
from condinst.views import make_batch, training_batches
from tests.tiny import picture, tiny_model

VIEWS = AugmentConfig(size=64)


def example(number: int, instances: int = 1) -> Example:
    mask = np.ones((20, 30), bool)
    mask[:5] = False
    return Example(picture(number, 80, 96), tuple(CropMask(10 * n, 8, mask, 0) for n in range(instances)))


@pytest.mark.parametrize("mask", ["dice", "boxinst"])
@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (1, 1)])
def test_losses_are_finite_whatever_a_batch_holds(mask: str, counts: tuple[int, int]) -> None:
    model = tiny_model().train()
    loss = LossConfig.model_validate({"mask": mask})
    views = [Example(e.image[:64, :64], e.instances) for e in map(example, (0, 1), counts)]
    batch = make_batch(views, model.config, loss)
    terms = Criterion(loss)(model, model(batch.x), batch.targets, batch.similarity)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_example_comes_once_an_epoch() -> None:
    asked: list[int] = []

    def load(number: int) -> Example:
        asked.append(number)
        return example(number)

    model = tiny_model()
    stream = training_batches(load, 5, model.config, LossConfig(), VIEWS, 2, np.random.default_rng(0))
    for batch in islice(stream, 5):
        assert batch.x.shape == (2, 3, 64, 64)
    assert sorted(asked[:5]) == sorted(asked[5:]) == list(range(5))
    assert asked[:5] != asked[5:]


def test_boxinst_is_told_the_colours_of_its_own_views() -> None:
    model = tiny_model()
    loss = LossConfig(mask="boxinst", boxinst=BoxInstConfig(dilation=1))
    views = [Example(picture(n, 64, 64), ()) for n in range(2)]
    batch = make_batch(views, model.config, loss)
    assert batch.similarity is not None
    for view, similarity in zip(views, batch.similarity, strict=True):
        rgb = torch.from_numpy(view.image.copy()).permute(2, 0, 1)
        assert torch.equal(similarity, colour_similarity(rgb, torch.ones(64, 64, dtype=torch.bool), 3, 1))
