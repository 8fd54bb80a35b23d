"""What processes share: sums, bytes, batch statistics, and with them the very gradient of one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from condinst import parallel
from condinst.augment import AugmentConfig, CropMask, Example
from condinst.criterion import Criterion, LossConfig
from condinst.fit import fit
from condinst.model import CondInst
from condinst.optimizing import FitConfig
from condinst.sampling import Order
from condinst.training import Training
from condinst.views import Views
from tests.tiny import picture, tiny_model

CPU = torch.device("cpu")
Work = Callable[[], dict[str, Tensor]]


def process(rank: int, world: int, folder: str, work: Work) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    save_file({k: v.contiguous() for k, v in work().items()}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def together(world: int, folder: Path, work: Work) -> list[dict[str, Tensor]]:
    """What `work` gives in each of `world` processes."""
    mp.spawn(process, (world, str(folder), work), nprocs=world)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


def sums() -> dict[str, Tensor]:
    rank = parallel.rank()
    told = parallel.gather_bytes(b"x" * (3 * rank), CPU)
    return {
        "total": parallel.total(torch.tensor([1.0, rank])),
        "gathered": parallel.gather(torch.arange(rank + 1)),
        "lengths": torch.tensor([len(t) for t in told]),
    }


def test_sums_and_gatherings(tmp_path: Path) -> None:
    for said in together(3, tmp_path, sums):
        assert said["total"].tolist() == [3, 3]
        assert said["gathered"].tolist() == [0, 0, 1, 0, 1, 2]
        assert said["lengths"].tolist() == [0, 3, 6]
    assert parallel.gather_bytes(b"alone", CPU) == [b"alone"]


def normalised(parts: int = 1, part: int = 0) -> dict[str, Tensor]:
    """A batch norm's output and gradients on a share of five images far from zero."""
    x = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 100
    x = x.tensor_split(parts)[part].clone().requires_grad_()
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    parallel.share_batch_norms(norm)
    out = norm(x)
    (out.pow(3) * torch.arange(4)[:, None, None]).sum().backward()
    assert x.grad is not None
    return {
        "out": out.detach(),
        "x": x.grad,
        "weight": parallel.total(norm.weight.grad),
        "bias": parallel.total(norm.bias.grad),
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }


def normalised_share() -> dict[str, Tensor]:
    return normalised(parallel.world(), parallel.rank())


def test_batch_statistics_are_those_of_all_images(tmp_path: Path) -> None:
    alone, parts = normalised(), together(2, tmp_path, normalised_share)
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), alone[name], rtol=1e-4, atol=1e-4)
    for name in ("weight", "bias", "mean", "variance"):
        for p in parts:
            torch.testing.assert_close(p[name], alone[name], rtol=1e-4, atol=1e-4)


def example(number: int) -> Example:
    """Every third has nothing in it; the others have several instances."""
    mask = np.ones((30, 30), bool)
    mask[:5] = False
    count = 0 if number % 3 == 0 else 2
    return Example(picture(number, 96, 96), tuple(CropMask(40 * n, 30 * n, mask, n) for n in range(count)))


def gradients(norm: str, loss: LossConfig) -> dict[str, Tensor]:
    """The gradient of this process's share of a step of five views; the same in all after `fit`'s sum."""
    torch.manual_seed(0)
    config = tiny_model().config
    backbone = config.backbone.model_copy(update={"norm": norm})
    model = CondInst(config.model_copy(update={"backbone": backbone}))
    # Fresh masks are flat, and their gradients nothing but roundings: these have shapes.
    nn.init.normal_(model.head.controller.weight, std=0.3)
    order = Order((7,), (1.0,), 3)
    views = Views(example, order, model.config, loss, AugmentConfig(size=96))
    settings = FitConfig(steps=1, warmup_steps=0, precision="float32", clip_norm=1e9, learning_rate=1e-9)
    training = Training(model, Criterion(loss), settings)
    batches = views.batches(5, rank=parallel.rank(), world=parallel.world())
    said: dict[str, float] = {}
    fit(training, training.criterion, batches, settings, lambda _, terms: said.update(terms))
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    del said["seconds"], said["wait"]
    return found | {f"told {name}": torch.tensor(value) for name, value in said.items()}


LOSSES = {
    "dice": LossConfig(),
    "few": LossConfig(max_mask_instances=5),
    "top": LossConfig(mask_top_k=2, class_normalizer="moving_positives"),
    "boxinst": LossConfig(mask="boxinst"),
}


class Gradients:
    def __init__(self, norm: str, loss: str) -> None:
        self.arguments = norm, LOSSES[loss]

    def __call__(self) -> dict[str, Tensor]:
        return gradients(*self.arguments)


@pytest.mark.parametrize(
    ("norm", "loss", "world"),
    [
        ("batch", "dice", 2),
        ("group", "few", 2),
        ("group", "top", 3),
        ("batch", "boxinst", 2),
    ],
)
def test_an_uneven_batch_has_the_gradient_of_one_process(
    norm: str, loss: str, world: int, tmp_path: Path
) -> None:
    alone = gradients(norm, LOSSES[loss])
    assert sum(float(v.abs().sum()) for v in alone.values()) > 0
    for other in together(world, tmp_path, Gradients(norm, loss)):
        assert other.keys() == alone.keys()
        for name, value in alone.items():
            # Convolutions of other batch sizes round otherwise; a wrong divisor would be off by a fifth.
            scale = 1e-4 if name.startswith("told") and name != "told norm" else 3e-2
            atol = scale * float(value.abs().max()) + 1e-7
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=atol, msg=lambda m: f"{name}: {m}")  # noqa: B023
