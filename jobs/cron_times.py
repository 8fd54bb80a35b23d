"""The moments at which a schedule fires, through changes of the clocks too.

Wall times, not elapsed time, are what people mean by "half past two each night":

- a time that the clocks skip fires as late as it would have come without the change (02:30 at 03:30);
- a time that comes twice fires once, the first time;
- a schedule that fires in every hour of the day goes on through both, in real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from jobs.cron import Cron

CHANGE = timedelta(hours=3)
"""More than any change of the clocks: so far around a span wall times are looked at."""
HOURS = 24
HORIZON = timedelta(days=8 * 366)
"""In which every schedule fires that ever does: on 29 February, around 2100 too."""


def fires(cron: Cron, zone: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The moments in (after, until] in order, in UTC; both are aware."""
    clock, last = ZoneInfo(zone), after
    found: list[datetime] = []
    first = after.astimezone(clock).replace(tzinfo=None) - CHANGE
    end = until.astimezone(clock).replace(tzinfo=None) + CHANGE
    for wall in _walls(cron, first, end):
        found += _moments(wall, clock, every_hour=len(cron.hours) == HOURS)
        # Moments come in order but for an hour around a change.
        found.sort()
        while found and found[-1] - found[0] > 2 * CHANGE:
            moment = found.pop(0)
            if last < moment <= until:
                last = moment
                yield moment
    for moment in found:
        if last < moment <= until:
            last = moment
            yield moment


def next_fire(cron: Cron, zone: str, after: datetime) -> datetime:
    """The first moment after another. Raises ValueError for a cron that never fires."""
    for moment in fires(cron, zone, after, after + HORIZON):
        return moment
    raise ValueError(f"{cron.text} never fires")


def _walls(cron: Cron, first: datetime, end: datetime) -> Iterator[datetime]:
    day = first.date()
    while day <= end.date():
        if cron.fires_on(day):
            for hour in cron.hours:
                for minute in cron.minutes:
                    wall = datetime(day.year, day.month, day.day, hour, minute)
                    if first <= wall <= end:
                        yield wall
        day += timedelta(days=1)


def _moments(wall: datetime, clock: ZoneInfo, *, every_hour: bool) -> list[datetime]:
    """When a clock on the wall shows a time: for one that is skipped, as if it went on unchanged."""
    first, second = (wall.replace(tzinfo=clock, fold=fold).astimezone(UTC) for fold in (0, 1))
    if every_hour:
        # Twice where it comes twice; where it is skipped, the hour after has it.
        return sorted({m for m in (first, second) if m.astimezone(clock).replace(tzinfo=None) == wall})
    return [first]
