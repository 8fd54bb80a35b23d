"""Where a run's time goes, by torch's profiler: operations of a processor, kernels of a GPU."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

NAMED = 8
"""Operations that are told by name."""


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Operations' own shares of the processor's time, largest first, the rest together.

    What runs outside torch, as encoding does, is not in the whole that the shares are of.
    """
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    return _largest(Counter({event.key: event.self_cpu_time_total for event in found.key_averages()}))


def device_shares(run: Callable[[], object]) -> dict[str, object]:
    """Kernels' shares of a GPU's working time, and that time's share of the run's.

    `run` ends when the GPU has. Copies do not count; where kernels ran side by side the second may be over 1.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        start = time.perf_counter()
        run()
        taken = time.perf_counter() - start
    events = [event for event in found.key_averages() if not event.key.startswith(("Memcpy", "Memset"))]
    times = Counter({event.key: event.self_device_time_total for event in events})
    return {"busy": round(times.total() / 1e6 / taken, 3), "kernels": _largest(times)}


def _largest(times: Counter[str]) -> dict[str, float]:
    whole = times.total() or 1
    named = times.most_common(NAMED)
    told = {name[:80]: round(value / whole, 4) for name, value in named}
    return told | {"others": round(1 - sum(value for _, value in named) / whole, 4)}
