"""`torch.compile` of a model's convolutions: once for each padded size, for any number of images.

The head's outputs are those of the convolutions uncompiled but for rounding (docs/benchmarks.md), and the
same whatever was compiled before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

MOST_GRAPHS = 10_000
"""That a process keeps, two a padded size; torch's own limit is 8, after which it compiles no more."""


class CompileError(Exception):
    """This machine cannot compile; the message says why and what to do."""


class Compiled(Generic[P, T]):
    """A function of tensors whose first dimension is a batch's, compiled where its inputs are of a new size.

    A batch of one image has a graph of its own, all others share one. What does not compile is computed as it
    is, with a warning, so that what a compiler cannot do costs time alone.
    """

    def __init__(self, function: Callable[P, T], device: torch.device) -> None:
        """Raises CompileError where not even a sum compiles on `device`."""
        import torch._dynamo  # takes a second to import, which only those who compile are to wait for

        torch._dynamo.config.recompile_limit = MOST_GRAPHS
        torch._dynamo.config.accumulated_recompile_limit = MOST_GRAPHS
        self._errors = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)
        self._mark = torch._dynamo.mark_dynamic
        self._check(device)
        self._function = function
        self._compiled = torch.compile(function, dynamic=False, fullgraph=True)
        self._refused: set[tuple[torch.Size, ...]] = set()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns."""
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        sizes = tuple(each.shape[1:] for each in tensors)
        if sizes in self._refused:
            return self._function(*args, **kwargs)
        for each in tensors:
            if len(each) > 1:
                self._mark(each, 0)
        try:
            return self._compiled(*args, **kwargs)
        except self._errors as error:
            self._refused.add(sizes)
            warnings.warn(f"not compiled, which costs time alone: {_first_line(error)}", stacklevel=2)
            return self._function(*args, **kwargs)

    def _check(self, device: torch.device) -> None:
        try:
            torch.compile(torch.relu, dynamic=False)(torch.ones(8, device=device))
        except self._errors as error:
            raise CompileError(
                "compile: true needs a C++ compiler where workers run, and on a GPU Triton: "
                f"{_first_line(error)}. Install one (Debian: g++), or set `compile: false`"
            ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
