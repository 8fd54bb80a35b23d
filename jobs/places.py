"""The paths and URIs that a spec names, wherever in it they stand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from condinst.config import DEMO

PLACES = ("uri", "annotations", "run", "area", "weights", "backbone_weights")
"""Keys of a spec that hold a path or a URI."""
OF_THE_USER = ("env", "node_selector")
"""Mappings whose keys are the user's own, whatever they are called."""


def places(value: Any, key: str = "") -> Iterator[str]:
    """Each path and URI of a spec as plain data; not `demo`, which is neither."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            if name not in OF_THE_USER:
                yield from places(below, str(name))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from places(below, key)
    elif key in PLACES and isinstance(value, str) and value != DEMO:
        yield value


def placed(value: Any, key: str = "") -> Any:
    """The same data with absolute paths: a cluster's nodes run in other folders."""
    if isinstance(value, Mapping):
        return {n: below if n in OF_THE_USER else placed(below, str(n)) for n, below in value.items()}
    if isinstance(value, list | tuple):
        return [placed(below, key) for below in value]
    if key in PLACES and isinstance(value, str) and "://" not in value and value != DEMO:
        return os.path.abspath(os.path.expanduser(value))
    return value
