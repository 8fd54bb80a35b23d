"""How often a request is made again, and how fast requests may follow each other; with a clock of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.check import load_text
from jobs.resolve import open_output, settings_of
from pipeline import pace, patience
from pipeline.pace import BURST_SECONDS, Pace, pace_of
from pipeline.patience import PATIENT, QUICK, Patience


@dataclass
class Clock:
    """Time that passes when somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    it = Clock()
    monkeypatch.setattr(patience, "time", it)
    monkeypatch.setattr(pace, "time", it)
    return it


class Passes(Exception):
    pass


@dataclass
class Request:
    """Fails so often, each time after so many seconds, then gives its number of tries."""

    clock: Clock
    failures: int
    seconds: float = 0.0
    tries: int = 0

    def __call__(self) -> int:
        self.tries += 1
        self.clock.now += self.seconds
        if self.tries <= self.failures:
            raise Passes(self.tries)
        return self.tries


def test_trouble_that_passes_in_time_is_not_seen(clock: Clock) -> None:
    request = Request(clock, QUICK.tries - 1)
    assert QUICK.insist(request, (Passes,)) == QUICK.tries
    assert len(clock.slept) == QUICK.tries - 1


@pytest.mark.parametrize("seed", range(50))
def test_a_service_gets_nearly_all_of_its_two_minutes_whatever_the_pauses(clock: Clock, seed: int) -> None:
    random.seed(seed)
    back = clock.now + PATIENT.seconds - PATIENT.longest_pause

    def request() -> str:
        if clock.now < back:
            raise Passes
        return "answered"

    assert PATIENT.insist(request, (Passes,)) == "answered"


def test_tries_are_bounded_and_the_last_error_is_told(clock: Clock) -> None:
    request = Request(clock, 10**6)
    with pytest.raises(Passes, match=str(QUICK.tries)):
        QUICK.insist(request, (Passes,))
    assert request.tries == QUICK.tries


@given(st.floats(0.01, 200))
def test_none_is_begun_after_the_time_is_over(seconds: float) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience, "time", clock)
        began: list[float] = []

        def request() -> None:
            began.append(clock.now - 1000.0)
            clock.now += seconds
            raise Passes

        with pytest.raises(Passes):
            PATIENT.insist(request, (Passes,))
    assert began[-1] <= PATIENT.seconds
    assert len(began) <= PATIENT.tries


def test_an_error_of_another_kind_is_final(clock: Clock) -> None:
    calls: list[int] = []

    def request() -> None:
        calls.append(1)
        raise KeyError("another")

    with pytest.raises(KeyError):
        PATIENT.insist(request, (Passes,))
    assert len(calls) == 1


def test_pauses_grow_to_a_bound_and_differ_from_one_to_the_next() -> None:
    rows = [list(PATIENT.pauses()) for _ in range(200)]
    for number, pauses in enumerate(zip(*rows, strict=True)):
        bound = min(PATIENT.longest_pause, PATIENT.first_pause * 2**number)
        assert max(pauses) <= bound
        assert len(set(pauses)) == len(rows)
        assert min(pauses) < bound / 2 < max(pauses)


def test_obstore_is_given_the_same_bounds() -> None:
    told = Patience(tries=4, seconds=9, longest_pause=2, first_pause=0.5).of_obstore()
    assert told["max_retries"] == 3
    assert told["retry_timeout"].total_seconds() == 9
    assert told["backoff"]["max_backoff"].total_seconds() == 2


@given(
    rate=st.floats(0.1, 500),
    gaps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), min_size=1, max_size=60),
)
def test_no_stretch_of_time_has_more_requests_than_its_share(
    rate: float, gaps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", clock)
        it = Pace(rate)
        made: list[tuple[float, int]] = []
        for gap, requests in gaps:
            clock.now += gap
            it.wait(requests)
            made.append((clock.now, requests))
    for first in range(len(made)):
        count = 0
        for at, requests in made[first:]:
            count += requests
            share = (at - made[first][0]) * rate
            assert count <= share + max(BURST_SECONDS * rate, requests, made[first][1]) + requests + 1e-6


def test_who_asks_slower_than_the_cap_never_waits(clock: Clock) -> None:
    it = Pace(10)
    for _ in range(50):
        clock.now += 0.1
        it.wait()
    assert clock.slept == []


def test_a_bucket_has_one_pace_the_lowest_that_is_asked_for() -> None:
    bucket = f"s3://{random.random()}"
    assert pace_of("http://a", bucket, None) is None
    first = pace_of("http://a", bucket, 20)
    again = pace_of("http://a", bucket, 5)
    other = pace_of("http://b", bucket, 50)
    assert first is again is not other
    assert first is not None
    assert first.per_second == 5


def test_workers_share_the_cap_of_a_bucket_and_the_driver_plans_with_the_whole() -> None:
    spec = load_text(
        "kind: segment\nname: x\ninput: [{uri: 's3://a/in', requests_per_second: 100}, {uri: 's3://b/in'}]\n"
        "output: {uri: 's3://a/out', requests_per_second: 10}\nworkers: {count: 4}\n",
        "spec",
    )
    settings = settings_of(spec)
    caps = [source.options and source.options.requests_per_second for source in settings.sources]
    assert caps == [25, None]
    assert settings.output_options.requests_per_second == 2.5
    assert open_output(spec).options.requests_per_second == 10
    assert "requests" not in str(settings.row_settings())
