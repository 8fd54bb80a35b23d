"""Whether the device that a command was told to use is there."""

from __future__ import annotations

import torch

from jobs.errors import JobError


def check_device(device: str | None) -> None:
    """Raise JobError for a `--device` that is neither cpu nor cuda, or a cuda that is not here."""
    if device not in (None, "cpu", "cuda"):
        raise JobError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise JobError("--device cuda: torch finds no CUDA device here")
