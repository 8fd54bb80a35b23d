"""`torch.compile` of a model's convolutions: once for each padded size, for any number of images.

Outputs are those uncompiled but for rounding (docs/benchmarks.md). On a processor they are the same to the
last bit whatever was compiled before; on a GPU how many images a size was first met with may move them by
rounding, as torch chooses by that how to add up.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from condinst.memory import lacks_memory

P = ParamSpec("P")
T = TypeVar("T")

MOST_GRAPHS = 10_000
"""That a process keeps, two a padded size; torch's own limit is 8, after which it compiles no more."""
ROUNDING = 0.05
"""Of a result's norm, by which what is compiled may differ."""
OPTIONS: dict[str, Any] = {"deterministic": True}
"""Of inductor: kernels are not chosen by how long they took."""


class CompileError(Exception):
    """This machine cannot compile; the message says why and what to do."""


class Compiled(Generic[P, T]):
    """A function of tensors whose first dimension is a batch's, compiled where its inputs are of a new size.

    A batch of one image has a graph of its own, all others share one. What does not compile, or gives
    something else the first time, is computed as it is, with a warning, so that what a compiler cannot do
    costs time alone. May be called in any thread.
    """

    def __init__(self, function: Callable[P, T], device: torch.device) -> None:
        """Raises CompileError where not even one operation compiles on `device`."""
        # Inductor would start a process for each of the machine's cores, of which a container may have few.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(torch.get_num_threads()))
        from torch import _dynamo  # takes a second to import, which only those who compile are to wait for

        self._dynamo = _dynamo
        self._check(device)
        self._function = function
        self._compiled = torch.compile(function, dynamic=False, fullgraph=True, options=OPTIONS)
        self._refused: set[tuple[torch.Size, ...]] = set()
        self._trusted: set[tuple[bool, tuple[torch.Size, ...]]] = set()
        self._thread = threading.local()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns."""
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        sizes = tuple(each.shape[1:] for each in tensors)
        if sizes in self._refused:
            return self._function(*args, **kwargs)
        self._lift_limits()
        for each in tensors:
            if len(each) > 1:
                self._dynamo.mark_dynamic(each, 0)
        graph = any(len(each) > 1 for each in tensors), sizes
        try:
            found = self._compiled(*args, **kwargs)
            reason = ""
        except Exception as error:  # of many types
            if lacks_memory(error):
                raise
            reason = _first_line(error)
        if not reason and graph in self._trusted:
            return found
        result = self._function(*args, **kwargs)  # raises again what the compiler is not to blame for
        if not reason and _agree(found, result):
            self._trusted.add(graph)
            return found
        self._refused.add(sizes)
        why = reason or "what was compiled computes something else"
        warnings.warn(f"not compiled, which costs time alone: {why}", stacklevel=2)
        return result

    def _lift_limits(self) -> None:
        """Torch keeps its settings by thread."""
        if not getattr(self._thread, "lifted", False):
            self._dynamo.config.recompile_limit = MOST_GRAPHS
            self._dynamo.config.accumulated_recompile_limit = MOST_GRAPHS
            self._thread.lifted = True

    @staticmethod
    def _check(device: torch.device) -> None:
        try:
            torch.compile(torch.relu, dynamic=False, options=OPTIONS)(torch.ones(8, device=device))
        except Exception as error:
            raise CompileError(
                "compile: true needs a C++ compiler where workers run, and on a GPU Triton: "
                f"{_first_line(error)}. Install one (Debian: g++), or set `compile: false`"
            ) from None


def _agree(found: object, expected: object) -> bool:
    """Whether two results are the same but for rounding, which goes through all layers in 8 bits at worst."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        wanted = expected.float()
        return bool((found.float() - wanted).norm() <= ROUNDING * wanted.norm())
    if is_dataclass(expected):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        return all(_agree(found[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        return all(_agree(one, other) for one, other in zip(found, expected, strict=True))
    return found == expected


def _first_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
