"""A run that is asked to stop ends within its grace, with the reason's own exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.errors import ExitCode, Interrupted
from jobs.stopping import Stop, stop_on_signals
from pipeline.stopping import RunFlag
from pipeline.storage import Store

STUCK = """
import threading
from concurrent.futures import ThreadPoolExecutor
from jobs.stopping import Stop, stop_on_signals
with stop_on_signals(Stop("run it again", grace=1, abrupt=True)), ThreadPoolExecutor(1) as pool:
    stuck = pool.submit(threading.Event().wait)
    print("at work", flush=True)
    stuck.result()
"""


@pytest.mark.parametrize(
    ("number", "times", "code"),
    [
        (signal.SIGTERM, 1, ExitCode.TERMINATED),
        (signal.SIGINT, 1, ExitCode.INTERRUPTED),
        (signal.SIGTERM, 2, 143),
    ],
)
def test_work_that_does_not_end_is_dropped(number: signal.Signals, times: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    if times == 2:
        assert process.stderr is not None
        while "stopping within" not in process.stderr.readline():
            pass
        process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == code
    if times == 1:
        assert "stopping within 1 s; once more to stop at once" in err
        assert f"stopped by {number.name}; run it again (shards in work were dropped)" in err


def wait_out(stop: Stop) -> None:
    with stop_on_signals(stop):
        stop.ask(Interrupted("first", ExitCode.CANCELLED))
        stop.ask(Interrupted("second"))
        assert stop()
        time.sleep(60)


def test_the_first_reason_stays_and_is_raised_when_the_grace_is_over() -> None:
    stop = Stop("run it again", grace=1)
    assert not stop()
    with pytest.raises(Interrupted, match="first"):
        wait_out(stop)
    with pytest.raises(Interrupted, match="first"):
        stop.raise_if_set()


def test_a_signal_is_the_reason_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(Stop("run it again")) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Interrupted, match="stopped by SIGTERM; run it again") as caught:
        stop.raise_if_set()
    assert caught.value.code == ExitCode.TERMINATED


def test_a_run_sees_its_own_flag_only(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    mine, workers, other = RunFlag(store, "aa"), RunFlag(store, "aa"), RunFlag(store, "bb")
    assert not workers.is_set()
    mine.put()
    assert workers.is_set()
    assert not other.is_set()
    mine.clear()
    assert workers.is_set(), "once seen it stays"
    assert not list(store.list())
