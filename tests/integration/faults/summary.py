"""The table of faults by outcome, as `docs/reliability.md` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.integration.faults.judge import Outcome
from tests.integration.faults.play import Result
from tests.integration.faults.schedule import KINDS

SHOWN = (
    Outcome.OK,
    Outcome.LOST,
    Outcome.DUPLICATED,
    Outcome.DIFFERING,
    Outcome.TORN,
    Outcome.HUNG,
    Outcome.CRASHED,
)


def summary(results: Sequence[Result]) -> str:
    """Markdown. A schedule with two kinds of fault counts in the rows of both, and once in the last."""
    skipped = sum(result.outcome is Outcome.SKIPPED for result in results)
    played = [result for result in results if result.outcome is not Outcome.SKIPPED]
    seeds = [result.seed for result in results]
    lines = [
        f"{len(played)} schedules, seeds {min(seeds)} to {max(seeds)}, "
        f"{sum(result.seconds for result in played) / max(1, len(played)):.0f} s each; "
        f"{sum(len(result.exits) for result in played)} drivers, "
        f"{sum(not result.struck for result in played)} schedules whose fault never came up"
        + (f"; {skipped} skipped: mounting a disk is for root" if skipped else ""),
        "",
        "| fault | schedules | " + " | ".join(SHOWN) + " |",
        "|---|" + "---:|" * (len(SHOWN) + 1),
    ]
    for kind in KINDS:
        lines.append(_row(kind, [result for result in played if kind in result.faults]))
    lines.append(_row("**all**", played))
    bad = [result for result in played if result.outcome is not Outcome.OK]
    lines += ["", *(f"- {result.schedule}: {result.outcome}, {result.why}" for result in bad)]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, results: Sequence[Result]) -> str:
    outcomes = Counter(result.outcome for result in results)
    return f"| {name} | {len(results)} | " + " | ".join(str(outcomes[outcome]) for outcome in SHOWN) + " |"
