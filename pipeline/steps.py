"""The named steps on a shard's way, announced as they begin or are done, to whoever listens in this process.

A worker's sign of life listens, so that a stalled run can say where it stands; so do the tests that kill
processes at each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Step = Literal[
    "fetch",  # an input's bytes are asked for
    "decode",  # an input is decoded
    "infer",  # a batch enters the model
    "encode",  # the shard's tables are made
    "first_written",  # the attempt's own file of instances lies in the store
    "second_written",  # and that of images
    "commit",  # the commit record is asked for
    "committed",  # it stands, this attempt's or another's; nothing is public yet
    "publish",  # the instances are public, the images are not
]
STEPS: tuple[Step, ...] = get_args(Step)

Listener = Callable[[Step, str], None]
"""Called with the step and the shard's id, in the thread that does the work."""

_listeners: list[Listener] = []


def reached(step: Step, shard: str) -> None:
    """Tell every listener that a shard has come to a step."""
    for listener in tuple(_listeners):
        listener(step, shard)


def listen(listener: Listener) -> Callable[[], None]:
    """Call `listener` at every step from now on; returns what ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
