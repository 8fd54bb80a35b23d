"""The training loop: it learns, it is reproducible, and it says when it cannot go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count, cycle, islice, repeat

import numpy as np
import pytest
import torch

from condinst.augment import CropMask, Example, to_target
from condinst.config import DetectConfig
from condinst.criterion import Criterion, LossConfig
from condinst.fit import Batch, FitConfig, fit, learning_rate, prefetch
from condinst.model import CondInst
from condinst.optimizing import make_optimizer
from condinst.preprocess import to_batch
from condinst.training import Training
from tests.unit.test_weights import small

TERMS = ("class", "box", "quality", "mask")
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
    config = FitConfig(steps=steps, learning_rate=3e-3, warmup_steps=5, average=0.9, precision="float32")
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
    first, last = (sum(v for k, v in h.items() if k in TERMS) for h in (history[0], history[-1]))
    assert last < 0.8 * first


def test_a_loss_that_stays_nan_ends_the_run() -> None:
    model = small()
    good = batch(model)
    with pytest.raises(
        FloatingPointError, match="4 steps in a row had a loss or gradient that is not finite"
    ):
        fit(
            model,
            Criterion(LossConfig()),
            repeat(Batch(good.x * float("nan"), good.targets)),
            FitConfig(steps=20, precision="float32", max_skipped=3),
        )
    assert all(torch.isfinite(p).all() for p in model.state_dict().values())


def test_a_bad_step_is_skipped_and_leaves_no_trace() -> None:
    def batches(bad: int | None) -> Iterator[Batch]:
        for number in range(4):
            if number == bad:
                yield Batch(good.x * float("nan"), good.targets)
            if number < 3:
                yield good

    results = []
    for bad in (None, 1):
        model = small()
        good = batch(model)
        steps = 3 if bad is None else 4
        config = FitConfig(steps=steps, warmup_steps=0, schedule="step", milestones=(), precision="float32")
        skipped: list[float] = []
        training = Training(model, Criterion(LossConfig()), config)
        fit(training, training.criterion, batches(bad), config, lambda _, t: skipped.append(t["skipped"]))  # noqa: B023
        results.append(training)
        assert sum(skipped) == training.skipped == (bad is not None)
    clean, dirty = (r.optimizer.state_dict()["state"] for r in results)
    for number, state in clean.items():
        assert torch.equal(state["exp_avg"], dirty[number]["exp_avg"])


def test_a_training_goes_on_from_its_state() -> None:
    config = FitConfig(steps=6, warmup_steps=2, precision="float32")
    whole, halved = small(), small()
    data = batch(whole)
    fit(whole, Criterion(LossConfig()), repeat(data), config)
    kept: list[tuple[dict[str, torch.Tensor], dict[str, int]]] = []
    first = Training(halved, Criterion(LossConfig()), config.model_copy(update={"checkpoint_steps": 4}))
    fit(
        first,
        first.criterion,
        repeat(data),
        first.config,
        on_checkpoint=lambda t: kept.append(({k: v.clone() for k, v in t.tensors().items()}, t.counters())),
    )
    tensors, counters = kept[0]
    assert counters["step"] == 4
    torch.manual_seed(9)
    again = Training(CondInst(whole.config), Criterion(LossConfig()), config)
    again.restore(tensors, counters)
    fit(again, again.criterion, repeat(data), config)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="not a state of this training"):
        again.restore({k: v for k, v in tensors.items() if not k.startswith("average")}, counters)


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    config = FitConfig(steps=3, warmup_steps=0, precision="float32", learning_rate=1e-4)
    whole, parted = small(norm="group"), small(norm="group")
    both = batch(whole)
    lone = [Batch(both.x[n : n + 1], both.targets[n : n + 1]) for n in range(2)]
    said: dict[str, list[float]] = {}
    for name, model, batches, parts in (
        ("whole", whole, repeat(both), 1),
        ("parts", parted, cycle(lone), 2),
    ):
        history: list[float] = []
        own = config.model_copy(update={"accumulate": parts})
        fit(model, Criterion(LossConfig()), batches, own, lambda _, t: history.append(t["norm"]))  # noqa: B023
        said[name] = history
    assert said["whole"] == pytest.approx(said["parts"], rel=1e-4)


def test_step_schedule_and_layer_decay() -> None:
    config = FitConfig(steps=90, warmup_steps=0, schedule="step", learning_rate=1.0, layer_decay=0.5)
    assert [learning_rate(step, config) for step in (1, 60, 61, 80, 81)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    model = small()
    factors = {p: g["factor"] for g in make_optimizer(model, config).param_groups for p in g["params"]}
    assert factors[model.backbone.stem.conv.weight] == 0.5**5
    assert factors[next(model.backbone.stages[3].parameters())] == 0.5
    assert factors[model.head.scales] == 1


def test_frozen_stages_keep_their_statistics() -> None:
    model = small()
    model.backbone.freeze(2)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    fit(model, Criterion(LossConfig()), repeat(batch(model)), FitConfig(steps=2, precision="float32"))
    same = {k for k, v in model.backbone.state_dict().items() if torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(("stem", "stages.0"))}
    assert frozen <= same
    assert not (same - frozen)


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


def test_a_prefetch_that_is_closed_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    stream = prefetch(count())
    assert next(stream) == 0
    stream.close()
    assert set(threading.enumerate()) <= before


def test_float16_scales_the_loss_and_goes_on_from_its_state() -> None:
    """On a processor too, where nobody is to train so, the loop is that of a GPU."""
    config = FitConfig(steps=4, warmup_steps=0, precision="float16", clip_norm=1.0)
    models = [small(), small()]
    half, exact = models
    data, norms = batch(half), []
    first = Training(half, Criterion(LossConfig()), config)
    fit(first, first.criterion, repeat(data), config, lambda _, t: norms.append(t["norm"]))
    assert first.scaler.get_scale() > 1
    plain: list[float] = []
    own = config.model_copy(update={"precision": "float32"})
    fit(exact, Criterion(LossConfig()), repeat(data), own, lambda _, t: plain.append(t["norm"]))
    good = [n for n in norms if n - n == 0]
    assert good[0] == pytest.approx(plain[0], rel=0.05), "what is clipped is not scaled"
    again = Training(small(), Criterion(LossConfig()), config)
    again.restore(first.tensors(), first.counters())
    assert again.scaler.state_dict() == first.scaler.state_dict()


def test_an_overflow_lowers_the_scale_and_a_bad_loss_does_not() -> None:
    model = small()
    config = FitConfig(steps=40, warmup_steps=0, precision="float16", max_skipped=3)
    training = Training(model, Criterion(LossConfig()), config)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    good, told = batch(model), []
    parts = [*[good] * 16, *[Batch(good.x * float("nan"), good.targets)] * 3, good]
    config = config.model_copy(update={"steps": len(parts)})
    fit(training, training.criterion, iter(parts), config, lambda _, t: told.append(t["skipped"]))
    skipped = int(sum(told[:16]))
    assert 3 < skipped < 16, "more in a row than max_skipped: each of them lowered the scale"
    assert training.scaler.get_scale() == 2.0 ** (30 - skipped)
    assert told[16:19] == [1, 1, 1]
    assert training.skipped == skipped + 3
