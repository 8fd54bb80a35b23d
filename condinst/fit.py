"""The training loop: batches in, a trained model out; in one process, or in several that share each step.

With `torch.use_deterministic_algorithms(True)` and a fixed number of threads, the same at every run.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from condinst import parallel
from condinst.config import STRIDES, Precision
from condinst.criterion import Aim, Criterion, Totals
from condinst.model import CondInst
from condinst.optimizing import FitConfig, learning_rate
from condinst.precision import decided
from condinst.targets import Target
from condinst.training import Training

Item = TypeVar("Item")

__all__ = ["Batch", "FitConfig", "fit", "learning_rate", "prefetch"]


@dataclass(frozen=True)
class Batch:
    """What one step, or a part of it, learns from."""

    x: Tensor
    """(N, 3, H, W) network input."""
    targets: list[Target]
    """Ground truth of each image."""
    similarity: list[Tensor] | None = None
    """Each image's `boxinst.colour_similarity`, for the BoxInst loss only."""
    draws: list[int] | None = None
    """Each image's seed of what the losses choose at random. Default: PyTorch's generator."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if device == self.x.device:
            return self
        similarity = [s.to(device) for s in self.similarity] if self.similarity is not None else None
        return Batch(self.x.to(device), [t.to(device) for t in self.targets], similarity, self.draws)


class Learner(nn.Module):
    """A model and its losses as one module, so that `DistributedDataParallel` sees every weight used."""

    def __init__(self, model: CondInst, criterion: Criterion, precision: Precision | Literal["auto"]) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        precision = decided(precision, model.device.type)
        self._half = None if precision == "float32" else getattr(torch, precision)

    def forward(self, batch: Batch, aim: Aim, totals: Totals) -> dict[str, Tensor]:
        """This process's part of each loss."""
        with torch.autocast(batch.x.device.type, dtype=self._half, enabled=self._half is not None):
            dense = self.model(batch.x)
        terms: dict[str, Tensor] = self.criterion(
            self.model, dense, batch.targets, batch.similarity, aim, totals
        )
        return terms


def fit(
    training: Training | CondInst,
    criterion: Criterion,
    batches: Iterator[Batch],
    config: FitConfig,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[Training], None] | None = None,
) -> CondInst:
    """Train a model in place until `config.steps`, each step from the next `config.accumulate` batches.

    Of a `Training` the rest is done, from the step it has come to. Afterwards the model holds the averaged
    weights. `on_step` gets the step, counted from 1, and its losses over all processes, learning rate (`lr`),
    gradient norm (`norm`), seconds (`seconds`), the processes' mean of those spent waiting for data (`wait`),
    and whether it was skipped (`skipped`). `on_checkpoint` is called where `config.checkpoint_at` says so. A
    step whose loss or gradient is not finite is skipped; more than `config.max_skipped` in a row raise
    FloatingPointError. In float16 a gradient that overflows lowers the scale of the loss (`Training.scaler`);
    its step is skipped, and counts as one in a row only when the scale is 1 already.
    """
    if isinstance(training, CondInst):
        training = Training(training, criterion, config)
    model = training.model
    learner: nn.Module = Learner(model, criterion, config.precision)
    if parallel.world() > 1:
        parallel.share_batch_norms(model)
        learner = DistributedDataParallel(learner, forward_sync_buffers=False)
    _train_mode(model)
    with contextlib.closing(prefetch(batches)) as stream:
        while training.step < config.steps:
            began = time.perf_counter()
            parts = [next(stream).to(model.device) for _ in range(config.accumulate)]
            wait = time.perf_counter() - began
            terms = _step(training, learner, parts, wait)
            terms["seconds"] = time.perf_counter() - began
            if training.bad > config.max_skipped:
                raise FloatingPointError(
                    f"{training.bad} steps in a row had a loss or gradient that is not finite, the last was "
                    f"step {training.step}"
                )
            if on_step:
                on_step(training.step, terms)
            if on_checkpoint and config.checkpoint_at(training.step):
                on_checkpoint(training)
                _train_mode(model)
    training.average.store(model)
    return model.eval()


def _step(training: Training, learner: nn.Module, parts: Sequence[Batch], wait: float) -> dict[str, float]:
    """One optimiser step; returns its losses over all processes, and what else `fit` tells of it."""
    model, criterion, config = training.model, training.criterion, training.config
    rate = learning_rate(training.step + 1, config)
    before = [b.clone() for b in model.buffers()]
    training.optimizer.zero_grad(set_to_none=True)
    aims = [criterion.aim(b.targets, _shapes(b.x), b.draws) for b in parts]
    totals = criterion.totals(aims)
    summed: dict[str, Tensor] = {}
    for number, (batch, aim) in enumerate(zip(parts, aims, strict=True)):
        last = number == len(parts) - 1
        held = isinstance(learner, DistributedDataParallel) and not last
        with learner.no_sync() if held else contextlib.nullcontext():  # type: ignore[operator]
            terms = learner(batch, aim, totals)
            # DistributedDataParallel takes the mean over processes, and these losses are to be added up.
            total = torch.stack(list(terms.values())).sum() * parallel.world()
            training.scaler.scale(total).backward()
        for name, value in terms.items():
            summed[name] = summed.get(name, torch.zeros_like(value)) + value.detach()
    told = torch.stack([*(v.float() for v in summed.values()), torch.tensor(wait, device=model.device)])
    *values, wait = parallel.total(told).tolist()
    training.scaler.unscale_(training.optimizer)  # so that what is clipped are the gradients themselves
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    good = all(map(_finite, [*values, norm]))
    if good:
        training.advance(rate)
    else:
        training.skip(before, overflow=all(map(_finite, values)))
    # Losses and gradients are sums over all processes, so all of them skip the same steps.
    said = {"lr": rate, "norm": norm, "skipped": float(not good), "wait": wait / parallel.world()}
    return dict(zip(summed, values, strict=True)) | said


def _finite(value: float) -> bool:
    return value - value == 0


def _shapes(x: Tensor) -> list[tuple[int, int]]:
    """(h, w) of the levels of an (N, 3, H, W) batch, H and W multiples of 32."""
    return [(-(-x.shape[2] // stride), -(-x.shape[3] // stride)) for stride in STRIDES]


def _train_mode(model: CondInst) -> None:
    """Training mode, but for batch norms that are frozen: their statistics stay as well."""
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in own):
            module.eval()


def prefetch(items: Iterator[Item], depth: int = 4) -> Generator[Item, None, None]:
    """The same items, made ahead in a thread that ends with the stream; an exception there is raised here."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(depth)
    ended = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if ended.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        # A thread left in PyTorch's code when the interpreter ends takes the whole process down with it.
        thread.join()
