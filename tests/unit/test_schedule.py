"""The scheduler's rules under a clock that the test moves, through a month and its change of the clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cron import parse_cron
from jobs.cron_times import fires, next_fire
from jobs.errors import JobError
from jobs.schedule import Entry, Outcome, Scheduler
from jobs.schedule_state import Run, ScheduleState

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = (datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 4, 10, tzinfo=UTC))
"""Clocks in Berlin go from 02:00 to 03:00 on 29 March."""
AUTUMN = (datetime(2026, 10, 10, tzinfo=UTC), datetime(2026, 11, 10, tzinfo=UTC))
"""And from 03:00 to 02:00 on 25 October."""
MINUTE = timedelta(minutes=1)


class Crash(Exception):
    """Stands for a death of the scheduler: whatever it would have done next is not done."""


class FakeRunner:
    """Runs nothing; keeps what was started, as a cluster's job server does: an id once."""

    def __init__(self, takes: timedelta = MINUTE) -> None:
        self.now = SPRING[0]
        self.takes = takes
        self.begun: dict[tuple[str, datetime, int], datetime] = {}
        self.codes: dict[datetime, list[int | None]] = {}
        self.crashes: Iterator[bool] = iter(())
        self.unreachable = False

    def start(self, entry: Entry, run: Run) -> str:
        if self.unreachable:
            raise JobError("no cluster there")
        if next(self.crashes, False):
            raise Crash
        self.begun.setdefault((entry.name, run.fire, run.attempt), self.now)
        if next(self.crashes, False):
            raise Crash
        return f"{entry.name}-{run.attempt}"

    def look(self, run: Run) -> Outcome | None:
        if self.now - self.begun[run.name, run.fire, run.attempt] < self.takes:
            return None
        codes = self.codes.get(run.fire, [])
        return Outcome(codes[run.attempt - 1] if run.attempt <= len(codes) else 0)

    @property
    def fires(self) -> list[datetime]:
        return [fire for _, fire, _ in self.begun]


def entry(cron: str = "30 2 * * *", zone: str = "Europe/Berlin", **changes: object) -> Entry:
    return Entry(**{"name": "nightly", "path": Path("n.yaml"), "cron": cron, "timezone": zone, **changes})


def served(
    folder: Path, runner: FakeRunner, entries: list[Entry], span: tuple[datetime, datetime], step: timedelta
) -> ScheduleState:
    """Tick from the start of a span to its end."""
    state = ScheduleState(folder / "s.sqlite")
    scheduler = Scheduler(state, runner)
    scheduler.serve(entries, span[0])
    runner.now = span[0]
    while runner.now <= span[1]:
        scheduler.tick(runner.now)
        runner.now += step
    return state


def walls(moments: list[datetime]) -> list[str]:
    return [f"{moment.astimezone(BERLIN):%m-%d %H:%M%z}" for moment in moments]


def test_a_night_job_runs_each_night_once_through_both_changes(tmp_path: Path) -> None:
    for number, span in enumerate((SPRING, AUTUMN)):
        runner = FakeRunner()
        state = served(tmp_path / str(number), runner, [entry()], span, timedelta(seconds=230))
        days = [moment.astimezone(BERLIN).date() for moment in runner.fires]
        first = span[0].astimezone(BERLIN).date()
        assert days == [first + timedelta(n) for n in range(len(days))]
        assert len(days) == 31
        usual = [f for f in walls(runner.fires) if "02:30" not in f]
        assert usual == ([] if number else ["03-29 03:30+0200"]), (
            "skipped by the clocks: as late as it would be"
        )
        late = [begun - fire for (_, fire, _), begun in runner.begun.items()]
        assert max(late) < timedelta(seconds=230), "each began at the first look after its time"
        assert {run.state for run in state.runs("nightly")} == {"done"}
    assert "10-25 02:30+0200" in walls(runner.fires), "what comes twice runs the first time"


def test_an_hourly_job_runs_each_real_hour(tmp_path: Path) -> None:
    for number, span in enumerate((SPRING, AUTUMN)):
        runner = FakeRunner()
        served(tmp_path / str(number), runner, [entry("15 * * * *")], span, timedelta(minutes=20))
        apart = {after - before for before, after in pairwise(runner.fires)}
        assert apart == {timedelta(hours=1)}
        assert len(runner.fires) == 31 * 24


@given(
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=4),
    hours=st.sets(st.integers(0, 23), min_size=1, max_size=24),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    start=st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 1)),
    parts=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
)
def test_moments_do_not_depend_on_when_one_looks(
    minutes: set[int], hours: set[int], zone: str, start: datetime, parts: list[int]
) -> None:
    cron = parse_cron(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *")
    first = at = start.replace(tzinfo=UTC)
    pieces: list[datetime] = []
    for part in parts:
        pieces += fires(cron, zone, at, at + part * MINUTE)
        at += part * MINUTE
    whole = list(fires(cron, zone, first, at))
    assert pieces == whole
    assert whole == sorted(set(whole))
    if whole:
        assert next_fire(cron, zone, first) == whole[0]
    # Each day has each wall time once, but where clocks change.
    clock = ZoneInfo(zone)
    shown = Counter(moment.astimezone(clock).strftime("%d %H:%M") for moment in whole)
    assert all(count == 1 or len(hours) == 24 for count in shown.values())


def test_a_rare_day_is_found() -> None:
    assert next_fire(parse_cron("0 0 29 2 *"), "UTC", datetime(2096, 3, 1, tzinfo=UTC)).year == 2104


@settings(deadline=None, max_examples=60)
@given(
    crashes=st.lists(st.booleans(), max_size=40),
    steps=st.lists(st.integers(5, 4000), min_size=20, max_size=120),
    takes=st.integers(1, 300),
    overlap=st.sampled_from(["skip", "queue"]),
)
def test_deaths_at_any_point_neither_lose_nor_double_a_run(
    tmp_path_factory: pytest.TempPathFactory, crashes: list[bool], steps: list[int], takes: int, overlap: str
) -> None:
    state = ScheduleState(tmp_path_factory.mktemp("s") / "s.sqlite")
    runner = FakeRunner(takes * MINUTE)
    runner.crashes = iter(crashes)
    job = entry("*/20 * * * *", overlap=overlap)
    scheduler = Scheduler(state, runner)
    scheduler.serve([job], runner.now)
    began = runner.now
    for step in [*steps, 10, 10, 10]:
        try:
            scheduler.tick(runner.now)
        except Crash:
            scheduler = Scheduler(state, runner)
            scheduler.serve([job], runner.now)
        runner.now += timedelta(seconds=step)
    for _ in range(50):  # let what is open end, with no crash left
        runner.crashes = iter(())
        try:
            scheduler.tick(runner.now)
        except Crash:
            continue
    runs = state.runs("nightly")
    expected = list(fires(parse_cron(job.cron), job.timezone, began, runner.now))
    assert [run.fire for run in runs] == expected, "every moment is accounted for, once"
    ended = [run for run in runs if run.state in ("done", "running")]
    assert sorted(runner.fires) == [run.fire for run in ended], "what was begun is what is noted as begun"
    spans = sorted((begin, begin + runner.takes) for begin in runner.begun.values())
    assert all(end <= after for (_, end), (after, _) in pairwise(spans)), "never two at a time"


def test_missed_moments_are_made_up_for_once(tmp_path: Path) -> None:
    runner = FakeRunner()
    state = served(tmp_path, runner, [entry()], (SPRING[0], SPRING[0] + timedelta(days=2)), MINUTE)
    back = SPRING[0] + timedelta(days=6, hours=5)
    scheduler = Scheduler(state, runner)
    scheduler.serve([entry()], back)
    runner.now = back
    scheduler.tick(back)
    states = [run.state for run in state.runs("nightly")]
    assert states == ["done", "done", "missed", "missed", "missed", "missed", "running"][-len(states) :]
    assert back - runner.fires[-1] < timedelta(hours=5)


def test_without_catching_up_what_is_on_time_still_runs(tmp_path: Path) -> None:
    runner, state = FakeRunner(), ScheduleState(tmp_path / "s")
    strict = Scheduler(state, runner, catch_up=timedelta(0))
    strict.serve([entry()], SPRING[0])
    first = strict.next_fire(SPRING[0])
    assert first is not None
    for runner.now in (first + timedelta(seconds=7), first + timedelta(days=1, minutes=2)):
        strict.tick(runner.now)
    assert [run.state for run in state.runs("nightly")] == ["done", "missed"]


def test_what_is_too_late_is_not_made_up_for(tmp_path: Path) -> None:
    runner, state = FakeRunner(), ScheduleState(tmp_path / "s")
    weekly = entry("0 0 * * mon", "UTC")
    Scheduler(state, runner).serve([weekly], SPRING[0])
    late = Scheduler(state, runner, catch_up=timedelta(hours=6))
    runner.now = SPRING[0] + timedelta(days=9)
    late.serve([weekly], runner.now)
    late.tick(runner.now)
    assert [run.state for run in state.runs("nightly")] == ["missed"]
    assert not runner.begun


@pytest.mark.parametrize(
    ("overlap", "states"),
    [("skip", ["done", "skipped", "skipped", "done"]), ("queue", ["done", "skipped", "done", "done"])],
)
def test_overlap(tmp_path: Path, overlap: str, states: list[str]) -> None:
    runner = FakeRunner(timedelta(minutes=170))
    span = (SPRING[0] + timedelta(minutes=30), SPRING[0] + timedelta(minutes=30 + 225))
    job = entry("0 * * * *", "UTC", overlap=overlap)
    state = served(tmp_path, runner, [job], span, MINUTE)
    scheduler = Scheduler(state, runner)
    scheduler.serve([entry("0 0 29 2 *", "UTC", overlap=overlap)], runner.now)  # no more come
    for _ in range(400):
        scheduler.tick(runner.now)
        runner.now += MINUTE
    assert [run.state for run in state.runs("nightly")] == states


def test_bad_ends_are_followed_by_retries_and_deaths_by_new_attempts(tmp_path: Path) -> None:
    runner = FakeRunner()
    nights = list(fires(parse_cron("30 2 * * *"), "Europe/Berlin", SPRING[0], SPRING[0] + timedelta(days=5)))
    runner.codes = dict(zip(nights, [[4, 4, 0], [4, 4, 4], [None, None, 0], [2], [None] * 9], strict=True))
    span = (SPRING[0], SPRING[0] + timedelta(days=5))
    state = served(tmp_path, runner, [entry(retries=2)], span, MINUTE)
    assert [(run.state, run.attempt, run.code) for run in state.runs("nightly")] == [
        ("done", 3, 0),
        ("failed", 3, 4),
        ("done", 3, 0),
        ("failed", 1, 2),
        ("failed", 4, 4),
    ]


def test_a_cluster_out_of_reach_loses_no_run(tmp_path: Path) -> None:
    runner, state = FakeRunner(), ScheduleState(tmp_path / "s")
    said: list[str] = []
    scheduler = Scheduler(state, runner, tell=said.append)
    scheduler.serve([entry()], SPRING[0])
    runner.unreachable = True
    for hour in range(8):
        scheduler.tick(SPRING[0] + timedelta(hours=hour))
    assert [run.state for run in state.runs("nightly")] == ["due"]
    assert sum("no cluster there" in line for line in said) == 1, "told once"
    runner.unreachable = False
    scheduler.tick(SPRING[0] + timedelta(hours=8))
    assert [run.state for run in state.runs("nightly")] == ["running"]


def test_suspended_and_changed_schedules_have_missed_nothing(tmp_path: Path) -> None:
    runner, state = FakeRunner(), ScheduleState(tmp_path / "s")
    scheduler = Scheduler(state, runner)
    for day, job in enumerate([entry(suspend=True), entry(), entry("0 1 * * *")]):
        now = SPRING[0] + timedelta(days=3 * day)
        scheduler.serve([job], now)
        scheduler.tick(now)
        assert state.runs("nightly") == []
    assert scheduler.next_fire(now) == datetime(2026, 3, 17, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("waits", ["due", "queued", "again"])
def test_nothing_of_a_suspended_schedule_is_begun(tmp_path: Path, waits: str) -> None:
    runner, state = FakeRunner(timedelta(minutes=90)), ScheduleState(tmp_path / "s")
    scheduler = Scheduler(state, runner)
    hourly = entry("0 * * * *", "UTC", overlap="queue", retries=1)
    scheduler.serve([hourly], SPRING[0])
    runner.codes = {SPRING[0] + timedelta(hours=1): [4, 0] if waits == "again" else [0]}
    runner.unreachable = waits == "due"
    hours = 2 if waits == "queued" else 1
    for hour in range(1, hours + 1):
        runner.now = SPRING[0] + timedelta(hours=hour)
        scheduler.tick(runner.now)
    runner.unreachable = False
    begun = dict(runner.begun)
    scheduler.serve([replace(hourly, suspend=True)], runner.now)
    for _ in range(50):
        runner.now += timedelta(minutes=10)
        scheduler.tick(runner.now)
    assert runner.begun == begun, "neither what was due, nor what was queued, nor another attempt"
    last = state.runs("nightly")[-1]
    assert last.state == ("queued" if waits == "queued" else "due")
    scheduler.serve([hourly], runner.now)
    scheduler.tick(runner.now)
    assert len(runner.begun) == len(begun) + 1, "begun once it is not suspended any more"
    assert state.runs("nightly")[-1].fire == last.fire
    assert state.runs("nightly")[-1].state == "running"


def test_a_foreign_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("not a database, whatever else it may be" * 40)
    with pytest.raises(JobError, match="cannot be used"):
        ScheduleState(tmp_path / "x")
