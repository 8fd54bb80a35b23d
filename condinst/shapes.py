"""Models as shapes: what their weights would be called and how large they are, without any numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWS: frozenset[Callable[..., Any]] = frozenset(
    {
        init.normal_,
        init.uniform_,
        init.constant_,
        init.kaiming_normal_,
        init.kaiming_uniform_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    }
)


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of first weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made inside have shapes and no numbers.

    Torch's meta device by itself draws first weights there too, and loads its compiler for that: two seconds.
    """
    with torch.device("meta"), _Undrawn():
        yield
