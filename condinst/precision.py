"""Which numbers a machine computes a network in quickest."""

from __future__ import annotations

import torch

from condinst.config import Precision


def quickest_precision(device: str) -> Precision:
    """What `auto` means on a device (`cpu`, `cuda`): bfloat16 where the hardware multiplies it itself.

    Those are GPUs, and processors with AMX or AVX-512 BF16. Others compute bfloat16 by way of float32 and
    take several times as long as in float32 itself (docs/benchmarks.md).
    """
    if device != "cpu":
        return "bfloat16"
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if has.get("amx_bf16") or has.get("avx512_bf16") else "float32"
