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


def rest(device: torch.device) -> None:
    """Wait until the device has done what it was given, and leave the core to others meanwhile.

    What waits for a GPU by reading from it keeps its core busy. What is computed next is started only then: a
    moment in which the GPU has nothing to do, once a batch.
    """
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(device))
        event.synchronize()


@lru_cache(maxsize=8)
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream in which a GPU copies what it is to work on next."""
    return torch.cuda.Stream(device)


class Upload:
    """A tensor of pinned memory on its way to a GPU, beside what that does. On a CPU it stays where it is."""

    def __init__(self, host: Tensor, device: torch.device) -> None:
        """In any thread. Raises what torch does where the GPU has no room."""
        self._host, self._device = host, device
        self._there: Tensor | None = None
        if device.type == "cuda":
            stream = _copying(device)
            with torch.cuda.stream(stream):
                self._there = host.to(device, non_blocking=True)
                self._arrived = stream.record_event()

    def take(self) -> Tensor:
        """The tensor there, for what the current stream does next; if taken again, it is copied again."""
        there, self._there = self._there, None
        if there is None:
            return self._host.to(self._device, non_blocking=True)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._arrived)
        there.record_stream(stream)  # or its memory could be another's while it is still read
        return there


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
