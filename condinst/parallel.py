"""What the processes that train one model together tell each other; alone, each of these does nothing.

Built on `torch.distributed`: the process group is whatever the caller has set up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient; every process must ask."""
    value = value.detach()
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_of(mine: bool, device: torch.device) -> bool:
    """Whether any process says so; every process must ask."""
    return mine if world() == 1 else bool(total(torch.tensor(float(mine), device=device)) > 0)


def gather(values: Tensor) -> Tensor:
    """The (n,) values of all processes, in their order; n may differ."""
    if world() == 1:
        return values
    sizes = torch.zeros(world(), dtype=torch.int64, device=values.device)
    sizes[rank()] = len(values)
    lengths = total(sizes).tolist()
    mine = values.new_zeros(max(lengths))
    mine[: len(values)] = values
    all_of_them = [torch.empty_like(mine) for _ in lengths]
    dist.all_gather(all_of_them, mine)
    return torch.cat([part[:length] for part, length in zip(all_of_them, lengths, strict=True)])


def gather_bytes(data: bytes, device: torch.device) -> list[bytes]:
    """Each process's bytes, in their order."""
    sizes = gather(torch.tensor([len(data)], device=device)).tolist()
    mine = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    together = gather(mine.to(device)).cpu().numpy().tobytes()
    parts, at = [], 0
    for size in sizes:
        parts.append(together[at : at + size])
        at += size
    return parts


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of all processes' images, however they are spread.

    PyTorch's own `SyncBatchNorm` needs a GPU. Every process must hold at least one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if not self.training or world() == 1:
            return super().forward(x)
        out, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), momentum)
            self.num_batches_tracked += 1
        result: Tensor = out
        return result


def share_batch_norms(model: nn.Module) -> None:
    """Make the model's trainable batch norms those of all processes, in place; its weights stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance over all processes.

    In the kernels of PyTorch's own batch norm, each of which goes over x once.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unused = weight.new_zeros(x.shape[1])  # makes the statistics float32, whatever x is
        mean, variance = torch.batch_norm_update_stats(x, unused, unused.clone(), 0.0)
        count = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float64, device=x.device)
        # Moments are added up in float64: squares of means would swallow small variances.
        wide = mean.double()
        moments = total(torch.cat((count, count * wide, count * (variance.double() + wide.square()))))
        count, mean, square = moments[:1], *(moments[1:] / moments[0]).chunk(2)
        variance = (square - mean.square()).clamp(min=0).float()
        mean = mean.float()
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, variance, count.float())
        out = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance, count.float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, count = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        by_mean, by_variance = (total(torch.cat((of_bias, of_weight))) / count).chunk(2)
        inverse = (variance + ctx.eps).rsqrt()
        scale = weight * inverse
        one, zero = torch.ones_like(scale), torch.zeros_like(scale)
        of_x = F.batch_norm(grad, by_mean, one, scale, zero, False, 0.0, 0.0)
        if x.dtype == torch.float32:
            shape = (1, -1, 1, 1)
            centred = x - mean.view(shape)  # first: where the mean is large, their products would swallow it
            of_x.addcmul_(centred, (scale * inverse * by_variance).view(shape), value=-1)
        else:
            of_x -= F.batch_norm(x, mean, variance, scale * by_variance, zero, False, 0.0, ctx.eps)
        return of_x, of_weight, of_bias, None
