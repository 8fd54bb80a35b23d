"""Training batches: every example once an epoch, at the model's scale, and nothing breaks on empty images."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from condinst.augment import AugmentConfig, CropMask, Example
from condinst.boxinst import colour_similarity
from condinst.criterion import BoxInstConfig, Criterion, LossConfig
from condinst.sampling import Order
from condinst.views import Views, make_batch, view_of
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


def views_of(load=example, count: int = 5, augment: AugmentConfig = VIEWS) -> Views:
    return Views(load, Order((count,), (1.0,), 0), tiny_model().config, LossConfig(), augment)


def test_every_example_comes_once_an_epoch() -> None:
    order = views_of().order
    asked = [order.item(position) for position in range(10)]
    assert sorted(asked[:5]) == sorted(asked[5:]) == list(range(5))
    assert asked[:5] != asked[5:]


def test_a_batch_is_the_same_whoever_shares_it_and_from_wherever_one_starts() -> None:
    views = views_of(augment=AugmentConfig(size=64, more_sizes=(96,)))
    alone = list(islice(views.batches(5), 8))
    assert {b.x.shape[2] for b in alone} == {64, 96}
    for first in (0, 2):
        streams = [views.batches(5, first_step=first, rank=r, world=2, threads=2) for r in range(2)]
        for whole in alone[first:]:
            parts = [next(stream) for stream in streams]
            assert [len(p.targets) for p in parts] == [3, 2]
            assert torch.equal(torch.cat([p.x for p in parts]), whole.x)
            assert [d for p in parts for d in p.draws] == whole.draws
    halves = list(islice(views.batches(5, accumulate=2), 2))
    assert torch.equal(torch.cat([h.x for h in halves]), alone[0].x)


def test_more_processes_than_views_are_refused() -> None:
    with pytest.raises(ValueError, match="5 views cannot be shared by 3 processes in 2 parts"):
        next(views_of().batches(5, world=3, accumulate=2))


def test_what_loading_raises_comes_through() -> None:
    def load(number: int) -> Example:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        next(views_of(load).batches(2, threads=2))


def test_the_next_of_the_order_stands_for_an_image_that_cannot_be_had() -> None:
    def load(number: int) -> Example | None:
        return None if number in (1, 3) else example(number)

    whole = views_of(augment=AugmentConfig(size=64, copy_paste=1.0))
    order = whole.order
    lacking = Views(load, order, whole.config, whole.loss, whole.augment)
    batches = [next(lacking.batches(8, first_step=1, rank=r, world=2, threads=2)) for r in range(2)]
    alone = next(lacking.batches(8, first_step=1))
    assert torch.equal(torch.cat([b.x for b in batches]), alone.x)
    only = views_of(load)
    for position in range(10):
        stands = next(order.item(p) for p in range(position, 99) if order.item(p) not in (1, 3))
        random = order.random(position)
        expected = view_of(example(stands), only.config, only.augment, random, (64, 64))
        found = next(only.batches(1, first_step=position))
        assert torch.equal(found.x, make_batch([expected], only.config, only.loss).x)


def of_shape(number: int, height: int, width: int) -> Example:
    return Example(picture(number, height, width), (CropMask(5, 8, np.ones((20, 30), bool), 0),))


def test_a_step_learns_from_images_that_lie_or_from_those_that_stand() -> None:
    sizes = [(80, 120), (70, 200), (120, 80), (90, 90), (64, 300), (150, 60)]
    lying = [width >= height for height, width in sizes]
    loaded: list[int] = []

    def load(number: int) -> Example:
        loaded.append(number)
        return of_shape(number, *sizes[number])

    order = Order((3, 3), (1.0, 2.0), 0)
    augment = AugmentConfig(size=64, aspect=1.5)
    views = Views(load, order, tiny_model().config, LossConfig(), augment, sizes)
    alone = list(islice(views.batches(3), 12))
    assert {tuple(batch.x.shape[2:]) for batch in alone} == {(64, 96), (96, 64)}
    loaded.clear()
    for shape, batch in ((b.x.shape[2:], b) for b in islice(views.batches(3, threads=1), 12)):
        assert len(batch.targets) == 3
        assert tuple(shape) in {(64, 96), (96, 64)}
    steps = [loaded[begin : begin + 3] for begin in range(0, 36, 3)]
    kinds = [{lying[number] for number in step} for step in steps]
    assert all(len(kind) == 1 for kind in kinds)
    # 2 + 2 * 2 of an epoch's 9 images lie; four epochs are 12 steps.
    assert kinds.count({True}) == 8
    counts = Counter(number for step in steps for number in step)
    assert [counts[number] for number in range(6)] == [4, 4, 4, 8, 8, 8]
    streams = [views.batches(3, first_step=5, rank=rank, world=2, threads=2) for rank in range(2)]
    for whole in alone[5:]:
        parts = [next(stream) for stream in streams]
        assert torch.equal(torch.cat([part.x for part in parts]), whole.x)


def test_views_that_lie_or_stand_need_sizes() -> None:
    with pytest.raises(ValueError, match="need the sizes"):
        next(views_of(augment=AugmentConfig(size=64, aspect=2)).batches(2))


def test_where_no_image_can_be_had_there_is_no_view() -> None:
    with pytest.raises(LookupError, match="no example that can be had"):
        next(views_of(lambda number: None).batches(1))


def test_boxinst_is_told_the_colours_of_its_own_views() -> None:
    model = tiny_model()
    loss = LossConfig(mask="boxinst", boxinst=BoxInstConfig(dilation=1))
    views = [Example(picture(n, 64, 64), ()) for n in range(2)]
    batch = make_batch(views, model.config, loss)
    assert batch.similarity is not None
    for view, similarity in zip(views, batch.similarity, strict=True):
        rgb = torch.from_numpy(view.image.copy()).permute(2, 0, 1)
        assert torch.equal(similarity, colour_similarity(rgb, torch.ones(64, 64, dtype=torch.bool), 3, 1))
