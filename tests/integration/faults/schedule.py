"""Which faults strike a job, and when: drawn from a seed, so that every schedule can be had again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.steps import STEPS, Step
from tests.integration.faults.inject import Action, Strike
from tests.integration.faults.proxy import FAULTS, Fault, Kind, Rule
from tests.integration.faults.work import IMAGES, Work

FROZEN_AT: tuple[Step, ...] = ("encode", "first_written", "second_written", "commit", "committed", "publish")
HANG_SECONDS = 4.0
CLIENT_GIVES_UP = 90.0
"""Longer than any client waits for an answer."""

_HITS: dict[Fault, tuple[Kind, ...]] = {
    "500": ("input", "read", "list", "attempt", "record", "publish", "sweep", "other"),
    "503": ("input", "read", "list", "attempt", "record", "publish", "sweep", "other"),
    "hang": ("input", "attempt", "record", "publish"),
    "reset": ("input", "read", "list", "attempt", "record", "publish", "sweep", "other"),
    "lost answer": ("attempt", "record", "publish", "sweep", "other"),
    "truncated": ("input", "read", "list"),
    "cut upload": ("attempt", "record", "other"),
    "error in 200": ("publish",),
}
"""What each fault of the service can befall."""
_OFTEN: dict[Kind, int] = {"input": 24, "read": 30, "list": 4, "attempt": 20, "record": 7, "publish": 14}
"""How many requests of a kind a job surely makes, about."""


@dataclass(frozen=True)
class Schedule:
    """One job's faults. A driver that does not complete the job is started again without a word."""

    seed: int
    strikes: tuple[Strike, ...] = ()
    rules: tuple[Rule, ...] = ()
    workers: int = 1
    work: Work = IMAGES
    drivers: int = 1
    """Drivers started at the same time."""
    node: Literal["spare", "no spare", "SIGTERM"] | None = None
    """Remove a node when the strike `node` tells: at once, with another in its place before or none; or by
    SIGTERM, as a cloud takes a spot machine back."""
    disk: Literal["output", "temporary"] | None = None
    """What lies on a disk that is full in the first run."""
    disk_pages: int = 0
    """4 kB pages that are free there."""
    faults: tuple[str, ...] = ()
    """The kinds of fault, as the table of results names them."""

    @classmethod
    def of(cls, seed: int, work: Work = IMAGES) -> Schedule:
        """A schedule of the seed's kind, in turn, and in half of all cases something else beside it."""
        rng = random.Random(seed)
        kinds = list(KINDS)
        kind = kinds[seed % len(kinds)]
        schedule = KINDS[kind](cls(seed, workers=rng.choice((1, 1, 2)), work=work, faults=(kind,)), rng)
        if rng.random() < 0.3:
            schedule = _also(schedule, rng)
        if rng.random() < 0.3:
            fault = rng.choice([fault for fault in FAULTS if fault != "hang"])
            schedule = _service(fault)(replace(schedule, faults=(*schedule.faults, f"S3: {fault}")), rng)
        return schedule

    def __str__(self) -> str:
        parts = [*map(str, self.strikes), *map(str, self.rules)]
        parts += [f"{self.drivers} drivers"] if self.drivers > 1 else []
        parts += [f"node removed, {self.node}"] if self.node else []
        parts += [f"full disk ({self.disk}, {self.disk_pages} pages free)"] if self.disk else []
        return f"{self.work.name}, seed {self.seed}: {', '.join(parts)}; {self.workers} workers"


Kind_ = Callable[[Schedule, random.Random], Schedule]


def _strike(
    schedule: Schedule, name: str, action: Action, rng: random.Random, step: Step | None = None
) -> Strike:
    step = step or rng.choice(STEPS)
    return Strike(name, action, step, rng.randint(1, schedule.work.often(step)))


def _also(schedule: Schedule, rng: random.Random) -> Schedule:
    """One more process dies."""
    actions: tuple[Action, ...] = ("kill worker", "kill driver")
    strike = _strike(schedule, "also", rng.choice(actions), rng)
    if schedule.disk or any(each.action == "freeze" for each in schedule.strikes):
        return schedule  # who waits there for whom is a matter of its own
    who = strike.action.removeprefix("kill ")
    return replace(
        schedule,
        strikes=(*schedule.strikes, strike),
        faults=(*schedule.faults, f"{who} killed at {strike.step}"),
    )


def _kill(action: Action, step: Step) -> Kind_:
    return lambda schedule, rng: replace(
        schedule, strikes=(*schedule.strikes, _strike(schedule, "kill", action, rng, step))
    )


def _service(fault: Fault) -> Kind_:
    def build(schedule: Schedule, rng: random.Random) -> Schedule:
        rules = []
        for _ in range(rng.randint(1, 3) if fault != "hang" else 1):
            kind = rng.choice(_HITS[fault])
            times = rng.randint(1, 6) if fault != "hang" else rng.randint(1, 2)
            rules.append(Rule(fault, kind, rng.randrange(_OFTEN.get(kind, 4)), times, _held(fault, rng)))
        return replace(schedule, rules=(*schedule.rules, *rules))

    return build


def _held(fault: Fault, rng: random.Random) -> float:
    if fault != "hang":
        return 0.0
    return CLIENT_GIVES_UP if rng.random() < 0.5 else HANG_SECONDS


def _node(how: Literal["spare", "no spare", "SIGTERM"]) -> Kind_:
    # Without a spare the pool no longer fits what is left: it has to go on with a part of its workers.
    workers = 2 if how == "spare" else 3
    return lambda schedule, rng: replace(
        schedule, node=how, workers=workers, strikes=(_strike(schedule, "node", "tell", rng),)
    )


def _disk(schedule: Schedule, rng: random.Random) -> Schedule:
    # Python passes over a temporary folder that cannot take one small file, so some pages are left there.
    place: Literal["output", "temporary"] = "output" if rng.random() < 0.7 else "temporary"
    return replace(schedule, disk=place, disk_pages=rng.randint(0, 60) if place == "output" else 3)


def _freeze(schedule: Schedule, rng: random.Random) -> Schedule:
    step: Step = "second_written" if rng.random() < 0.5 else rng.choice(FROZEN_AT)
    return replace(schedule, workers=1, strikes=(_strike(schedule, "freeze", "freeze", rng, step),))


def _twice(schedule: Schedule, rng: random.Random) -> Schedule:
    return replace(schedule, drivers=2, workers=1)


KINDS: dict[str, Kind_] = {
    **{f"worker killed at {step}": _kill("kill worker", step) for step in STEPS},
    **{f"driver killed at {step}": _kill("kill driver", step) for step in STEPS},
    **{f"S3: {fault}": _service(fault) for fault in FAULTS},
    "node removed, a spare": _node("spare"),
    "node removed, no spare": _node("no spare"),
    "SIGTERM to a node": _node("SIGTERM"),
    "disk full": _disk,
    "SIGTERM to the driver": lambda schedule, rng: replace(
        schedule, strikes=(_strike(schedule, "stop", "stop driver", rng),)
    ),
    "two drivers at once": _twice,
    "worker cut off and back": _freeze,
}
"""Every kind of fault, and how a schedule of it is drawn."""
