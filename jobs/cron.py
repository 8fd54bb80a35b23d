"""Cron expressions: read strictly, so that every scheduler that gets one fires at the same times.

Five fields in cron's order, lists, ranges, steps, names of months and days, and `@daily` and its like. Not
read, because schedulers differ on it: a day of the month together with a day of the week, and `?`, `L`, `#`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, WEEKDAYS),
)
_ITEM = re.compile(
    r"(?:(?P<all>\*)|(?P<low>[a-z0-9]{1,3})(?:-(?P<high>[a-z0-9]{1,3}))?)(?:/(?P<step>[0-9]{1,3}))?"
)
DAY = 24 * 60


@dataclass(frozen=True)
class Cron:
    """When a schedule fires, as the numbers that each field allows, sorted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    """Of the month, from 1."""
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    """0 is Sunday, as in cron; Python's and APScheduler's 0 is Monday."""

    @property
    def text(self) -> str:
        """Five fields that every cron reads alike."""
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(
            "*" if len(numbers) == full else ",".join(map(str, numbers))
            for numbers, full in zip(fields, (60, 24, 31, 12, 7), strict=True)
        )

    def fires_on(self, day: date) -> bool:
        """Whether it fires on a day at all."""
        return day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays

    def shortest_gap(self) -> int:
        """Fewest minutes between two fires, by the clock on the wall.

        Looked for over the 28 years after which days and weekdays repeat.
        """
        times = [hour * 60 + minute for hour in self.hours for minute in self.minutes]
        gaps = [after - before for before, after in pairwise(times)]
        first = date(2024, 1, 1)
        days = [n for n in range(28 * 1461 // 4 + 366) if self.fires_on(first + timedelta(n))]
        apart = min((b - a for a, b in pairwise(days)), default=28 * 366)
        return min([*gaps, apart * DAY - times[-1] + times[0]])


def parse_cron(text: str) -> Cron:
    """Read a cron expression. Raises ValueError that names the field, what it holds and what it may hold."""
    if text.startswith("@") and text not in _MACROS:
        raise ValueError(f"there is no {text!r}; expected one of {', '.join(_MACROS)}, or five fields")
    fields = _MACROS.get(text, text).split()
    if len(fields) != 5:
        raise ValueError(
            f"has {len(fields)} fields; a cron expression has five: minute, hour, day of month, month, "
            'day of week, for example "30 2 * * *"'
        )
    found = [_field(field.lower(), *rule) for field, rule in zip(fields, _FIELDS, strict=True)]
    found[4] = sorted({number % 7 for number in found[4]})
    cron = Cron(*map(tuple, found))
    _refuse_both_days(cron)
    if not any(day <= _longest(month) for month in cron.months for day in cron.days):
        raise ValueError("never fires: none of its months has such a day")
    return cron


def _field(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> list[int]:
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        try:
            if match is None:
                raise ValueError
            found.update(_numbers(match, low, high, names))
        except ValueError:
            words = f", or {names[0]} to {names[-1]}" if names else ""
            raise ValueError(
                f"the {name} cannot be {item!r}; expected *, {low} to {high}{words}, a range such as "
                f"{low}-{low + 4}, or a step such as */2"
            ) from None
    return sorted(found)


def _numbers(match: re.Match[str], low: int, high: int, names: tuple[str, ...]) -> range:
    """What one item of a field allows. Raises ValueError."""
    step, top = int(match["step"] or 1), 6 if high == 7 else high
    if match["all"]:
        first, last = low, top
    else:
        first = _number(match["low"], low, names)
        # `5/15` is from 5 on in steps of 15.
        last = _number(match["high"], low, names) if match["high"] else top if match["step"] else first
    if not low <= first <= last <= high or not 1 <= step <= high:
        raise ValueError
    return range(first, last + 1, step)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    return names.index(text) + low if text in names else int(text)


def _refuse_both_days(cron: Cron) -> None:
    if len(cron.days) < 31 and len(cron.weekdays) < 7:
        raise ValueError(
            "a day of the month and a day of the week together: some schedulers then want both, some either; "
            "give one of them and * for the other"
        )


def _longest(month: int) -> int:
    return 29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31
