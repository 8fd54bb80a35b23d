"""Between the host and a device, without making one wait for the other where it need not.

A copy from or to the host's usual memory makes the host wait until it is done; from or to pinned memory a GPU
copies by itself, in the order of its stream. On a CPU all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def onto(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; on a GPU it is copied while the host goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def table(values: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """(n, m) float32 of n rows on a device."""
    return onto(torch.tensor(values, dtype=torch.float32), device)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(n,) float32 on a device, copied there once; not to be changed."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


class Copies:
    """Tensors of a device on their way to the host; `tensors` waits for them.

    They arrive in pinned memory, which is torch's to reuse when they are gone.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensors
        if tensors and tensors[0].is_cuda:
            self._host = tuple(
                torch.empty(each.shape, dtype=each.dtype, pin_memory=True).copy_(each, non_blocking=True)
                for each in tensors
            )
            self._event = torch.cuda.Event(blocking=True)  # whoever waits leaves its core to others
            self._event.record(torch.cuda.current_stream(tensors[0].device))

    @property
    def nbytes(self) -> int:
        """Bytes that they take of the host."""
        return sum(each.nbytes for each in self._host)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors on the host, once they are there; to be called in any thread."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host
