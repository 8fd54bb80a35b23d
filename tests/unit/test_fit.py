"""The training loop: it learns, it is reproducible, and it says when it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat

import numpy as np
import pytest
import torch

from condinst.augment import CropMask, Example, to_target
from condinst.config import DetectConfig
from condinst.criterion import Criterion, LossConfig
from condinst.fit import Batch, FitConfig, fit, learning_rate, prefetch
from condinst.model import CondInst
from condinst.preprocess import to_batch
from tests.unit.test_weights import small

OBJECTS = [(8, 8, 40, 0), (70, 20, 44, 1), (30, 74, 36, 0)]


def example() -> Example:
    """Three bright squares on dark ground."""
    image = np.random.default_rng(0).integers(0, 60, (128, 128, 3), dtype=np.uint8)
    for x, y, edge, category in OBJECTS:
        image[y : y + edge, x : x + edge, category] = 240
    return Example(image, tuple(CropMask(x, y, np.ones((e, e), bool), c) for x, y, e, c in OBJECTS))


def batch(model: CondInst) -> Batch:
    prepared = model.prepare(example().image)
    x = to_batch([prepared, prepared], model.config.input, torch.device("cpu"))
    return Batch(x, [to_target(example())] * 2)


def trained(steps: int, loss: LossConfig | None = None) -> tuple[CondInst, list[dict[str, float]]]:
    model = small()
    torch.manual_seed(1)
    history: list[dict[str, float]] = []
    config = FitConfig(steps=steps, learning_rate=3e-3, warmup_steps=5, average=0.9, bfloat16=False)
    fit(model, Criterion(loss or LossConfig()), repeat(batch(model)), config, lambda _, t: history.append(t))
    return model, history


def test_it_learns_a_scene_by_heart() -> None:
    model, history = trained(150)
    assert history[-1]["mask"] < 0.3 < history[0]["mask"]
    found = model.predict([example().image], DetectConfig(score_threshold=0.3))[0]
    for x, y, edge, category in OBJECTS:
        box = np.array([x, y, x + edge, y + edge])
        same = found.classes == category
        assert (np.abs(found.boxes[same] - box).max(1) < 6).any()


def test_the_same_seed_gives_the_same_weights() -> None:
    (a, _), (b, _) = trained(3), trained(3)
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(classes="cross_entropy", box="smooth_l1", mask="bce"),
        LossConfig(quality="iou", mask="dice_bce", class_normalizer="moving_positives"),
        LossConfig(mask_top_k=4),
    ],
    ids=["cross-entropy-smooth-l1-bce", "iou-dice-bce-moving", "top-k"],
)
def test_every_loss_goes_down(loss: LossConfig) -> None:
    _, history = trained(40, loss)
    first, last = (sum(v for k, v in h.items() if k not in ("lr", "wait")) for h in (history[0], history[-1]))
    assert last < 0.8 * first


def test_a_loss_that_stays_nan_ends_the_run() -> None:
    model = small()
    good = batch(model)
    with pytest.raises(FloatingPointError, match="ten losses in a row"):
        fit(
            model,
            Criterion(LossConfig()),
            repeat(Batch(good.x * float("nan"), good.targets)),
            FitConfig(steps=20, bfloat16=False),
        )
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_learning_rate_rises_then_falls() -> None:
    config = FitConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(1, 101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_prefetch_keeps_order_and_raises_what_was_raised() -> None:
    def numbers() -> Iterator[int]:
        yield from range(10)
        raise KeyError("broken")

    stream = prefetch(numbers())
    assert list(islice(stream, 10)) == list(range(10))
    with pytest.raises(KeyError, match="broken"):
        next(stream)
