"""Which numbers a machine computes a network in quickest."""

from __future__ import annotations

from typing import Literal

import torch

from condinst.config import Precision

WITHOUT_BFLOAT16 = ("K80", "P4", "P100", "V100", "T4")
"""GPUs before compute capability 8, as Ray names them."""
_FIRST_WITH_BFLOAT16 = (8, 0)


def quickest_precision(device: str, accelerator: str | None = None) -> Precision:
    """What `auto` means on a device (`cpu`, `cuda`): bfloat16 where the hardware multiplies it itself.

    Those are GPUs from compute capability 8 on, and processors with AMX or AVX-512 BF16. Older GPUs (T4,
    V100) multiply float16; older processors compute bfloat16 by way of float32 and take several times as long
    as in float32 itself (docs/benchmarks.md). `accelerator` is the GPU's type as Ray names it, where that is
    known; else the GPU that this process sees counts, and without one a new GPU is assumed.
    """
    if device != "cpu":
        return "float16" if _is_old(accelerator) else "bfloat16"
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if has.get("amx_bf16") or has.get("avx512_bf16") else "float32"


def decided(precision: Precision | Literal["auto"], device: str) -> Precision:
    """A precision as it is, `auto` as `quickest_precision` of the device."""
    return quickest_precision(device) if precision == "auto" else precision


def _is_old(accelerator: str | None) -> bool:
    if accelerator is not None:
        return accelerator in WITHOUT_BFLOAT16
    return torch.cuda.is_available() and torch.cuda.get_device_capability() < _FIRST_WITH_BFLOAT16
