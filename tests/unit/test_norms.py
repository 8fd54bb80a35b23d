"""Norms with the statistics of more than the image at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import condinst
from condinst.norms import moments, normed
from condinst.preprocess import Prepared, to_batch
from tests.tiny import picture, tiny_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> condinst.CondInst:
    path: Path = tiny_weights(tmp_path_factory.mktemp("weights"))
    return condinst.load(path)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.requires_grad_(False)


def test_an_images_own_statistics_give_what_group_norm_gives() -> None:
    norm, x = _norm(12, 3), torch.randn(1, 12, 7, 9) * 3 + 1
    own = moments([x], [torch.ones(7, 9, dtype=torch.bool)], 3)
    torch.testing.assert_close(normed(x, norm, own[None]), F.group_norm(x, 3, norm.weight, norm.bias))


def test_several_images_count_as_one() -> None:
    a, b = torch.randn(1, 8, 5, 4), torch.randn(1, 8, 5, 6) + 2
    where = [torch.ones(x.shape[2:], dtype=torch.bool) for x in (a, b)]
    both = moments([torch.cat([a, b], dim=3)], [torch.ones(5, 10, dtype=torch.bool)], 2)
    torch.testing.assert_close(moments([a, b], where, 2), both)


def test_what_does_not_count_changes_nothing() -> None:
    x, mask = torch.randn(1, 8, 6, 6), torch.rand(6, 6) > 0.5
    other = torch.where(mask, x, 1e6)
    torch.testing.assert_close(moments([x], [mask], 2), moments([other], [mask], 2))


def test_all_count_where_none_would() -> None:
    x = torch.randn(1, 8, 2, 2)
    none, every = torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    torch.testing.assert_close(moments([x], [none], 2), moments([x], [every], 2))


@torch.inference_mode()
def test_the_model_says_the_same_with_an_images_own_statistics(model: condinst.CondInst) -> None:
    plain = model.prepare(picture(3, 128, 256))  # on whose edges no level has a location outside
    x = to_batch([plain], model.config.input, model.device)
    norms = torch.from_numpy(model.statistics([plain], [None]))[None]
    own, same = model.dense(x).head, model.dense(x, norms).head
    torch.testing.assert_close(own.logits, same.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(own.tower, same.tower, atol=1e-4, rtol=1e-4)


def test_padding_and_what_holds_no_data_do_not_count(model: condinst.CondInst) -> None:
    image = picture(5, 128, 128)
    valid = np.ones((128, 128), bool)
    valid[:, 64:] = False
    whole, part = (model.statistics([model.prepare(image)], [data])[0] for data in (None, valid))
    assert not np.allclose(whole, part)
    assert np.isfinite(part).all()


def test_a_batch_has_statistics_for_all_or_for_none(model: condinst.CondInst) -> None:
    plain = model.prepare(picture(3, 96, 128))
    given = Prepared(plain.pixels, plain.size, model.statistics([plain], [None]))
    with pytest.raises(ValueError, match="for all of its images, or for none"):
        model.predict_prepared([plain, given])
