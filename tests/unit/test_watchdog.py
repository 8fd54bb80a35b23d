"""A piece of work that does not end ends its process, whether it holds the GIL or not; nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETUP = """
import ctypes, threading, time
from pipeline import watchdog
from pipeline.watchdog import Watchdog, paused, unhurried, watching
watchdog.BEAT, watchdog.SLACK = 0.05, 0.3
hold_the_gil = ctypes.PyDLL(None).usleep
seconds = lambda s: int(s * 1e6)
"""


def outcome(program: str) -> tuple[int, list[str]]:
    """Exit code of a process and what it said on stderr."""
    ended = subprocess.run(
        [sys.executable, "-c", SETUP + program],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=580,
    )
    return ended.returncode, ended.stderr.decode().strip().splitlines()


def test_a_hang_ends_the_process_and_one_line_says_where() -> None:
    code, said = outcome("""
watchdog.SLACK = 30  # the line comes first, however long a busy machine keeps the thread
def hang():
    time.sleep(100)
dog = Watchdog()
with watching("decoding 'a.png'", 0.5):
    hang()
""")
    assert code == 1
    (line,) = said
    assert line.startswith("this process ends: decoding 'a.png' has not ended within 0.5 s, now in hang (")


@pytest.mark.parametrize(
    "before", ["", "with watching('something else', 600): time.sleep(0.3)\n", "time.sleep(0.3)\n"]
)
def test_a_hang_that_never_lets_go_of_the_gil_ends_it_too(before: str) -> None:
    code, said = outcome(f"""
dog = Watchdog()
{before}
with watching("x", 0.5):
    hold_the_gil(seconds(100))
""")
    assert code == 1
    assert said == [], "a traceback of every thread is no news to the user"


def test_the_earliest_deadline_counts_whatever_began_first() -> None:
    code, said = outcome("""
watchdog.SLACK = 30  # the line comes first, however long a busy machine keeps the thread
dog = Watchdog()
def long():
    with watching("long", 600):
        time.sleep(100)
threading.Thread(target=long, daemon=True).start()
time.sleep(0.3)
with watching("short", 0.5):
    time.sleep(100)
""")
    assert code == 1
    assert "short has not ended" in said[0]


def test_what_ends_in_time_is_left_alone_however_much_of_it_there_is() -> None:
    code, said = outcome("""
dog = Watchdog()
until = time.monotonic() + 2.5
def work():
    while time.monotonic() < until:
        with watching("x", 1.0):
            time.sleep(0.01)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
while watchdog._work._armed is not None:  # until a look has seen that nothing is under way
    time.sleep(0.01)
hold_the_gil(seconds(2))
""")
    assert (code, said) == (0, [])


def test_the_last_to_close_takes_the_timer_along() -> None:
    code, said = outcome("""
one, two = Watchdog(), Watchdog()
one.close()
with watching("x", 0.5):
    two.close()
    hold_the_gil(seconds(1.5))
    time.sleep(0.3)
assert threading.active_count() == 1
""")
    assert (code, said) == (0, [])


def test_the_first_to_close_does_not() -> None:
    code, _ = outcome("""
one, two = Watchdog(), Watchdog()
one.close()
with watching("x", 0.5):
    hold_the_gil(seconds(100))
""")
    assert code == 1


def test_nothing_is_watched_where_no_watchdog_is() -> None:
    code, said = outcome("""
with watching("x", 0.1):
    time.sleep(0.5)
    hold_the_gil(seconds(0.5))
""")
    assert (code, said) == (0, [])


def test_waiting_for_others_takes_no_time() -> None:
    code, said = outcome("""
dog = Watchdog()
taken = threading.Lock()
taken.acquire()
threading.Timer(1.5, taken.release).start()
with watching("x", 1.0):
    with paused():
        time.sleep(1.5)
    with unhurried(taken):
        pass
""")
    assert (code, said) == (0, [])


def test_the_rest_of_the_time_runs_after_it() -> None:
    code, said = outcome("""
watchdog.SLACK = 30  # the line comes first, however long a busy machine keeps the thread
dog = Watchdog()
with watching("x", 0.5):
    with paused():
        time.sleep(0.2)
    time.sleep(100)
""")
    assert code == 1
    assert "x has not ended within 0.5 s" in said[0]


def test_one_that_waits_gives_others_no_time() -> None:
    code, said = outcome("""
watchdog.SLACK = 30  # the line comes first, however long a busy machine keeps the thread
dog = Watchdog()
def wait():
    with watching("waiting", 600), paused():
        time.sleep(100)
threading.Thread(target=wait, daemon=True).start()
with watching("x", 0.5):
    time.sleep(100)
""")
    assert code == 1
    assert "x has not ended within 0.5 s" in said[0]
