"""A run ends at its timeout, a job at its budget; each says so, and how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from jobs.check import load_text
from jobs.errors import ExitCode, Interrupted
from jobs.limits import HOUR, Limits
from jobs.stopping import GRACE_SECONDS, Stop, stop_on_signals
from jobs.tally import Busy, Tally

ROOT = Path(__file__).parents[2]

SPEC = "kind: segment\nname: x\ninput: {uri: in}\noutput: {uri: out}\n"


def ended(limits: Limits, gpus: float, seconds: float = 10.0) -> Stop:
    """A stop after a pool was watched until it was asked to stop, or so long."""
    stop, asked = Stop("run it again"), threading.Event()
    ask = stop.ask

    def told(reason: Interrupted, *, patient: bool = False) -> None:
        ask(reason, patient=patient)
        asked.set()

    stop.ask = told  # type: ignore[method-assign, assignment]
    with stop_on_signals(stop), limits.watch(stop, gpus):
        asked.wait(seconds)
        # The grace is an alarm; patience is none, or a later one of whoever runs the tests.
        stop.grace_left = signal.alarm(0)  # type: ignore[attr-defined]
    return stop


def test_a_spec_without_limits_has_none() -> None:
    limits = Limits.of(load_text(SPEC, "s"))
    assert (limits.timeout, limits.max_gpu_hours) == (None, None)
    assert ended(limits, 4, seconds=0.05).reason is None


def test_a_timeout_leaves_the_usual_grace() -> None:
    limits = Limits.of(load_text(f"{SPEC}timeout: 1s\n", "s"))
    stop = ended(limits, 0)
    assert isinstance(stop.reason, Interrupted)
    assert stop.reason.code == ExitCode.LIMIT
    assert str(stop.reason) == "the run took longer than timeout, 1 s; run it again"
    assert 0 < stop.grace_left <= GRACE_SECONDS  # type: ignore[attr-defined]


def test_a_budget_lets_shards_end() -> None:
    limits = Limits(max_gpu_hours=4 * 0.2 / HOUR)
    stop = ended(limits, 4)
    assert isinstance(stop.reason, Interrupted)
    assert stop.reason.code == ExitCode.LIMIT
    assert "with a higher max_gpu_hours" in str(stop.reason)
    assert not 0 < stop.grace_left <= GRACE_SECONDS  # type: ignore[attr-defined]


def test_what_earlier_runs_took_counts() -> None:
    tally = Tally(workers={"a": Busy(0, 1800), "b": Busy(100, 1900)})
    limits = Limits(max_gpu_hours=1.9).after(tally, gpus=2)
    assert limits.spent == 2.0
    with pytest.raises(
        Interrupted, match=r"earlier runs took 2\.00 GPU hours of max_gpu_hours 1\.9"
    ) as caught:
        ended(limits, 2)
    assert caught.value.code == ExitCode.LIMIT
    assert ended(Limits(max_gpu_hours=2.1).after(tally, gpus=2), 2, seconds=0.05).reason is None


def test_without_gpus_there_is_nothing_to_budget() -> None:
    assert ended(Limits(max_gpu_hours=1e-9), 0, seconds=0.05).reason is None


def test_a_signal_ends_a_patient_stops_patience() -> None:
    stop = Stop("run it again", grace=20)
    with stop_on_signals(stop):
        stop.ask(Interrupted("budget", ExitCode.LIMIT), patient=True)
        signal.raise_signal(signal.SIGTERM)
        assert 0 < signal.alarm(0) <= 20
    assert str(stop.reason) == "budget"


def test_a_limit_ends_the_patience_that_a_cancel_has() -> None:
    stop = Stop("run it again", grace=20)
    with stop_on_signals(stop):
        stop.ask(Interrupted("cancelled", ExitCode.CANCELLED), patient=True)
        stop.ask(Interrupted("timeout", ExitCode.LIMIT))
        assert 0 < signal.alarm(0) <= 20
        stop.ask(Interrupted("budget", ExitCode.LIMIT), patient=True)
        stop.ask(Interrupted("timeout", ExitCode.LIMIT))
        assert signal.alarm(0) == 0
    assert str(stop.reason) == "cancelled"
