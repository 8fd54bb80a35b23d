"""Schedules that are chosen, not drawn: a few with every kind of fault, and those that show planted bugs."""

from __future__ import annotations

from tests.integration.faults.inject import Strike
from tests.integration.faults.proxy import Rule
from tests.integration.faults.schedule import HANG_SECONDS, Schedule
from tests.integration.faults.work import TILED

QUICK: tuple[Schedule, ...] = (
    Schedule(
        9001,
        strikes=(Strike("node", "tell", "infer", 4), Strike("then", "kill worker", "publish", 5)),
        rules=(
            Rule("500", "input", 3, 3),
            Rule("reset", "attempt", 2, 2),
            Rule("truncated", "input", 12, 2),
            Rule("lost answer", "record", 4, 1),
        ),
        node="no spare",
        workers=3,
        faults=(
            "node removed, no spare",
            "worker killed",
            "S3: 500",
            "S3: reset",
            "S3: truncated",
            "S3: lost answer",
        ),
    ),
    Schedule(
        9002,
        work=TILED,
        strikes=(
            Strike("first", "kill driver", "second_written", 3),
            Strike("then", "kill worker", "commit", 9),
        ),
        rules=(
            Rule("503", "publish", 1, 3),
            Rule("hang", "record", 3, 1, HANG_SECONDS),
            Rule("cut upload", "attempt", 5, 1),
            Rule("truncated", "input", 9, 2),
            Rule("error in 200", "publish", 8, 1),
        ),
        faults=(
            "driver killed",
            "worker killed",
            "S3: 503",
            "S3: hang",
            "S3: cut upload",
            "S3: truncated",
            "S3: error in 200",
        ),
    ),
    Schedule(
        9005,
        strikes=(Strike("freeze", "freeze", "second_written", 2),),
        faults=("worker cut off and back",),
    ),
)
"""What `make test` runs."""

MORE: tuple[Schedule, ...] = (
    Schedule(9004, drivers=2, faults=("two drivers at once",)),
    Schedule(
        9006,
        strikes=(Strike("stop", "stop driver", "encode", 2),),
        disk="output",
        disk_pages=30,
        faults=("SIGTERM to the driver", "disk full"),
    ),
)
"""What `make test-clusters` adds."""

SEEN_BY: dict[str, Schedule] = {
    "no create-only commits": Schedule(9101, strikes=(Strike("freeze", "freeze", "second_written", 2),)),
    "images before instances": Schedule(9102, strikes=(Strike("kill", "kill driver", "publish", 2),)),
    "a loser believes it won": Schedule(9103, strikes=(Strike("freeze", "freeze", "second_written", 2),)),
    "a winner believes it lost": Schedule(9104, rules=(Rule("lost answer", "record", 1, 1),)),
}
"""A schedule for each of `plants.PLANTS` in which the bug does harm; without the bug it ends well."""

QUICK_PLANT = "a winner believes it lost"
"""The one that `make test` plants: a harness that sees nothing would pass all else."""
