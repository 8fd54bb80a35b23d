"""One schedule: a job with its faults, run again until it is complete, and judged."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from jobs.errors import ExitCode
from pipeline.storage import Store
from tests.integration.faults.ceph import Service
from tests.integration.faults.disk import Disk, disk
from tests.integration.faults.inject import PLAN, Strike, fired
from tests.integration.faults.judge import Outcome, Rows, judge, read_journal
from tests.integration.faults.lane import Lane, end
from tests.integration.faults.proxy import Proxy, proxy
from tests.integration.faults.reader import Reader, reader
from tests.integration.faults.schedule import Schedule
from tests.integration.faults.work import SHARD_SIZE, Work

RUNS = 8
"""Drivers one after the other that a job may need."""
SECONDS = 600.0
"""A job's time, all of its runs together; on an idle machine it needs 10 to 30."""
GRACE = 30.0
"""A driver's or a node's time from SIGTERM to its end: then a cluster kills it."""


@dataclass
class Result:
    """What a schedule did and what came of it."""

    seed: int
    schedule: str
    faults: tuple[str, ...]
    plant: str | None = None
    outcome: Outcome = Outcome.OK
    why: str = ""
    struck: list[str] = field(default_factory=list)
    """Faults that happened."""
    exits: list[int | None] = field(default_factory=list)
    """Of each driver, in the order of their starts."""
    refused: int = 0
    """Commits that came second."""
    seconds: float = 0.0

    @classmethod
    def from_json(cls, line: str) -> Result:
        """As written by an earlier run."""
        fields = json.loads(line)
        return cls(**{**fields, "outcome": Outcome(fields["outcome"])})


@dataclass
class Stage:
    """What all schedules of a lane share."""

    lane: Lane
    service: Service
    bucket: str
    weights: Path
    folder: Path
    expected: Mapping[str, Rows]
    """The undisturbed run's, of each job."""

    def play(self, schedule: Schedule, plant: str | None = None) -> Result:
        """Run a schedule to its end; raises nothing that a job could cause."""
        result = Result(schedule.seed, str(schedule), schedule.faults, plant)
        began = time.monotonic()
        with ExitStack() as stack:
            self.lane.restore()
            show = _Show(self, schedule, result, stack)
            if show.ready:
                show.run()
            else:
                result.outcome, result.why = Outcome.SKIPPED, "mounting a disk is for root"
        result.seconds = round(time.monotonic() - began, 1)
        return result

    @staticmethod
    def spec(work: Work, source: str, output: str, weights: str, workers: int) -> dict[str, Any]:
        """A job."""
        return {
            "kind": "segment",
            "name": "faults",
            "input": [{"uri": source}],
            "model": {"weights": weights, "score_threshold": 0.5, "max_instances": 4},
            "output": {"uri": output},
            "shards": {"images": SHARD_SIZE},
            "workers": {"count": workers},
            "batch": {"images": 3},
            **work.fields,
        }


class _Show:
    def __init__(self, stage: Stage, schedule: Schedule, result: Result, stack: ExitStack) -> None:
        self._stage, self._schedule, self._result = stage, schedule, result
        self._folder = stage.folder / f"{schedule.seed}-{time.time_ns()}"
        self._folder.mkdir()
        self._proxy: Proxy = stack.enter_context(proxy(stage.service.endpoint, schedule.rules))
        self._disk: Disk | None = stack.enter_context(disk(self._folder / "disk")) if schedule.disk else None
        self.ready = schedule.disk is None or self._disk is not None
        self._output = f"s3://{stage.bucket}/{self._folder.name}"
        if self._disk is not None:
            self._disk.fill(schedule.disk_pages)
            if schedule.disk == "output":
                self._output = str(self._disk.folder / "out")
        self._store = Store.open(self._output)
        self._deadline = time.monotonic() + SECONDS
        self._handled: set[str] = set()
        self._environment = self._write()

    def run(self) -> None:
        with reader(self._store) as watching, self._drivers() as drivers:
            self._complete(drivers)
        self._judge(watching)

    def _write(self) -> dict[str, str]:
        """The spec and the plan as files; returns the drivers' environment."""
        stage, schedule = self._stage, self._schedule
        weights = (
            f"s3://{stage.bucket}/weights.safetensors" if schedule.disk == "temporary" else stage.weights
        )
        source = f"s3://{stage.bucket}/{schedule.work.inputs}"
        spec = stage.spec(schedule.work, source, self._output, str(weights), schedule.workers)
        (self._folder / "spec.json").write_text(json.dumps(spec))
        strikes = [strike.to_json() for strike in schedule.strikes]
        plan = {"plant": self._result.plant, "strikes": strikes, "marks": str(self._folder)}
        (self._folder / "plan.json").write_text(json.dumps(plan))
        environment = stage.service.environment(self._proxy.endpoint)
        environment[PLAN] = str(self._folder / "plan.json")
        if self._disk is not None and schedule.disk == "temporary":
            environment["TMPDIR"] = str(self._disk.folder)
        return environment

    @contextmanager
    def _drivers(self) -> Iterator[list[ForkServerProcess]]:
        drivers: list[ForkServerProcess] = []
        try:
            yield drivers
        finally:
            for driver in drivers:
                end(driver)
            self._result.exits = [driver.exitcode for driver in drivers]

    def _start(self, drivers: list[ForkServerProcess]) -> None:
        drivers.append(self._stage.lane.start(self._folder / "spec.json", self._environment))

    def _complete(self, drivers: list[ForkServerProcess]) -> None:
        for run in range(RUNS):
            before = len(drivers)
            for _ in range(self._schedule.drivers if run == 0 else 1):
                self._start(drivers)
            if not self._accompany(drivers):
                return
            if all(driver.exitcode == ExitCode.DONE for driver in drivers[before:]):
                return
            self._stage.lane.restore()
            if self._disk is not None:
                self._disk.free()
        self._fail(Outcome.HUNG, f"not complete after {RUNS} runs")

    def _accompany(self, drivers: list[ForkServerProcess]) -> bool:
        """Wait until all drivers have ended, doing what the schedule asks for; False when they do not."""
        while any(driver.exitcode is None for driver in drivers):
            for strike in self._schedule.strikes:
                told = fired(self._folder, strike)
                if told is not None:
                    self._react(strike, told, drivers)
            if time.monotonic() > self._deadline:
                self._fail(Outcome.HUNG, f"a driver is still there after {SECONDS:g} s")
                return False
            time.sleep(0.05)
        return True

    def _react(self, strike: Strike, told: dict[str, Any], drivers: list[ForkServerProcess]) -> None:
        if strike.action == "stop driver":
            left = [driver for driver in drivers if driver.pid == told["driver"] and driver.exitcode is None]
            if left and time.time() > told["time"] + GRACE:
                self._fail(Outcome.HUNG, f"a driver is still there {GRACE:g} s after SIGTERM")
                end(left[0])
        if strike.name in self._handled:
            return
        self._handled.add(strike.name)
        if strike.action == "tell" and self._schedule.node == "SIGTERM":
            if left := self._stage.lane.preempt(told["node"], GRACE):
                self._fail(Outcome.HUNG, f"{len(left)} processes of a node outlive SIGTERM by {GRACE:g} s")
        elif strike.action == "tell":
            self._stage.lane.remove(told["node"], spare=self._schedule.node == "spare")
        elif strike.action == "freeze":
            self._take_over(drivers, told["pid"])

    def _take_over(self, drivers: list[ForkServerProcess], frozen: int) -> None:
        """Another driver does all while a process is cut off; then that one is back."""
        self._start(drivers)
        while drivers[-1].exitcode is None and time.monotonic() < self._deadline:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)

    def _judge(self, watching: Reader) -> None:
        result, journal = self._result, list(self._proxy.journal)
        result.struck = [str(s) for s in self._schedule.strikes if fired(self._folder, s)]
        result.struck += [f"{what} x{times}" for what, times in Counter(self._proxy.fired).items()]
        result.struck += [f"{self._schedule.drivers} drivers"] if self._schedule.drivers > 1 else []
        result.struck += ["disk full"] if "No space left" in self._said() else []
        result.refused = sum(entry.kind == "record" and entry.status == 412 for entry in journal)
        if result.outcome is Outcome.HUNG:
            return
        result.outcome, result.why = judge(self._store, self._stage.expected[self._schedule.work.name])
        if result.outcome is Outcome.OK and (complaints := watching.complaints + read_journal(journal)):
            self._fail(Outcome.TORN, "; ".join(complaints[:3]))
        if result.outcome is Outcome.OK and ExitCode.BUG in result.exits:
            self._fail(Outcome.CRASHED, self._said("Traceback")[-1500:])

    def _fail(self, outcome: Outcome, why: str) -> None:
        if self._result.outcome is Outcome.OK:
            self._result.outcome, self._result.why = outcome, why

    def _said(self, word: str = "") -> str:
        """What the drivers printed in whose text a word is found."""
        logs = (log.read_text() for log in sorted(self._folder.glob("spec.*.log")))
        return "\n".join(text.strip() for text in logs if word in text)
