"""Many schedules one after the other: `python -m tests.integration.faults --count 200 --first 0`.

Prints each result and the table of faults by outcome; ends with 1 unless every job was well.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.integration.faults.judge import Outcome
from tests.integration.faults.play import Result
from tests.integration.faults.schedule import Schedule
from tests.integration.faults.selection import MORE, QUICK, QUICK_PLANT, SEEN_BY
from tests.integration.faults.stages import Task, cores, play_all, service
from tests.integration.faults.summary import summary
from tests.integration.faults.work import IMAGES, WORKS


def main() -> int:
    given = _arguments()
    if given.table:
        print(summary(sorted(map(Result.from_json, _lines(given.table)), key=lambda result: result.seed)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began, results = time.monotonic(), []
    tasks = _tasks(given)
    with service() as it, (given.out.with_suffix(".jsonl")).open("w") as log:
        print(f"{len(tasks)} schedules on {it.name}, {given.lanes} lanes", flush=True)
        for result in play_all(tasks, given.lanes, it):
            results.append(result)
            log.write(json.dumps(asdict(result)) + "\n")
            log.flush()
            print(_line(result, len(results), len(tasks)), flush=True)
    text = summary(results)
    given.out.with_suffix(".md").write_text(text)
    print(f"\n{text}\n{(time.monotonic() - began) / 60:.0f} minutes; written: {given.out}.jsonl and .md")
    return 0 if all(_as_it_should(result) for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--work", choices=WORKS, default=IMAGES.name, help="the job that is disturbed")
    parser.add_argument("--lanes", type=int, default=cores(), help="Ray clusters at work side by side")
    parser.add_argument("--quick", action="store_true", help="instead, the few that `make test` runs")
    parser.add_argument("--more", action="store_true", help="instead, those that `make test-clusters` adds")
    parser.add_argument("--planted", action="store_true", help="instead, bugs that must be seen")
    parser.add_argument("--table", type=Path, nargs="+", help="instead, the table of results written earlier")
    parser.add_argument(
        "--out", type=Path, default=Path("/tmp/faults"), help="where results go, without suffix"
    )
    return parser.parse_args()


def _tasks(given: argparse.Namespace) -> list[Task]:
    tasks: list[Task] = []
    if given.quick:
        tasks += [*((schedule, None) for schedule in QUICK), (SEEN_BY[QUICK_PLANT], QUICK_PLANT)]
    if given.more:
        tasks += [(schedule, None) for schedule in MORE]
    if given.planted:
        tasks += [(schedule, plant) for plant, schedule in SEEN_BY.items()]
    if not tasks:
        seeds = range(given.first, given.first + given.count)
        tasks = [(Schedule.of(seed, WORKS[given.work]), None) for seed in seeds]
    return tasks


def _lines(files: Sequence[Path]) -> list[str]:
    return [line for file in files for line in file.read_text().splitlines()]


def _as_it_should(result: Result) -> bool:
    """Well, or ill where a bug was planted."""
    return (result.outcome in (Outcome.OK, Outcome.SKIPPED)) == (result.plant is None)


def _line(result: Result, number: int, of: int) -> str:
    planted = f" [planted: {result.plant}]" if result.plant else ""
    exits = " ".join(map(str, result.exits))
    struck = ", ".join(result.struck) or "nothing struck"
    why = f": {result.why}" if result.why else ""
    return (
        f"{number}/{of} {result.outcome}{why} | {result.schedule}{planted} | "
        f"struck: {struck} | exits {exits} | {result.refused} refused | {result.seconds:g} s"
    )


if __name__ == "__main__":
    sys.exit(main())
