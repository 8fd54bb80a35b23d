"""Whether the device that a command was told to use is there."""

from __future__ import annotations

import torch

from jobs.errors import JobError


def check_device(device: str | None) -> None:
    """Raise JobError for a `--device` that is neither cpu nor cuda, or a cuda that is not here."""
    if device not in (None, "cpu", "cuda"):
        raise JobError(f"--device {device}: expected cpu or cuda")
    if device == "cuda":
        require_cuda("--device cuda", "set it to cpu")


def require_cuda(place: str, remedy: str) -> None:
    """Raise JobError where torch finds no CUDA device; `place` is the option or key that asks for one."""
    if not torch.cuda.is_available():
        raise JobError(f"{place}: torch finds no CUDA device here; {remedy}")
