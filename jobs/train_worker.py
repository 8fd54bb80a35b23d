"""What each worker of a training does; runs in Ray Train's processes."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from condinst import parallel
from jobs import structured
from jobs.errors import Refused
from jobs.learn import Material, learn, material
from jobs.train_spec import TrainSpec
from pipeline.settings import difference
from pipeline.trainer import post


def work(payload: dict[str, Any]) -> None:
    """Take part in the training of `payload["spec"]`; only the first worker speaks, in events if `json`.

    Raises what `learn` and `material` raise, and Refused where labels or weights are no longer those of
    `payload["digests"]`.
    """
    spec = TrainSpec.model_validate_json(payload["spec"])
    first = parallel.rank() == 0
    relay, as_json = _Relay(payload["mailbox"]), payload["json"]
    if first and as_json:
        structured.log_json(relay)
    console = Console(file=relay, width=payload["width"], quiet=as_json or not first)
    given = material(spec, Console(quiet=True), _device(spec), payload["start"])
    _require_same(given, payload["digests"])
    learn(spec, given, console, payload["stopping"])


def _require_same(given: Material, digests: dict[str, str]) -> None:
    """Raise Refused where others have changed what this training reads: every group reads it anew."""
    if given.digests != digests:
        listed = "".join(f"\n  {line}" for line in difference(digests, given.digests))
        raise Refused(
            f"the labels or weights changed while the training ran:{listed}\n"
            "Put them back to go on from the last checkpoint, or name another output"
        )


def _device(spec: TrainSpec) -> str:
    if spec.device == "cpu":
        return "cpu"
    from ray.train.torch import get_device

    return str(get_device())


class _Relay(io.StringIO):
    """A file whose text goes to the driver, in whole writes."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__()
        self._mailbox = mailbox

    def write(self, text: str) -> int:
        post(self._mailbox, text)
        return len(text)
