"""What torch raises where memory does not suffice."""

from __future__ import annotations

import re

import torch

_WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|_ALLOC(ATION)?_FAILED", re.IGNORECASE
)
"""Where it raises a plain RuntimeError: its CPU allocator, CUDA's driver, cuDNN, cuBLAS."""


def lacks_memory(error: Exception) -> bool:
    """Whether an error of the model says that the GPU's memory, or the machine's, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
