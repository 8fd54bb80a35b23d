"""Cron expressions are read as cron reads them, or refused in words that name the field."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cron import parse_cron


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("30 2 * * *", "30 2 * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("*/20 1-3 * * *", "0,20,40 1,2,3 * * *"),
        ("5/25 * * * *", "5,30,55 * * * *"),
        ("0 0 1 JAN,jul *", "0 0 1 1,7 *"),
        ("0 0 * * mon-fri", "0 0 * * 1,2,3,4,5"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("0-59 */1 1-31 * *", "* * * * *"),
    ],
)
def test_what_is_read(text: str, same: str) -> None:
    assert parse_cron(text).text == same
    assert parse_cron(same) == parse_cron(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 2 * *", "has 4 fields"),
        ("0 0 2 * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("60 * * * *", "the minute cannot be '60'; expected \\*, 0 to 59"),
        ("0 24 * * *", "the hour cannot be '24'; expected"),
        ("0 0 0 * *", "the day of month cannot be '0'; expected"),
        ("0 0 * 13 *", "the month cannot be '13'; expected \\*, 1 to 12, or jan to dec"),
        ("0 0 * * sunday", "the day of week cannot be 'sunday'; expected"),
        ("5-1 * * * *", "the minute cannot be '5-1'; expected"),
        ("*/0 * * * *", "the minute cannot be '\\*/0'; expected"),
        ("*/99 * * * *", "the minute cannot be '\\*/99'; expected"),
        ("1,,2 * * * *", "the minute cannot be ''; expected"),
        ("0 0 L * *", "the day of month cannot be 'l'; expected"),
        ("0 0 31 2,4 *", "never fires"),
        ("0 0 1 * mon", "a day of the month and a day of the week together"),
        ("@nightly", "there is no '@nightly'"),
        ("TZ=UTC 0 0 * * *", "has 6 fields"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cron(text)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("* * * * *", 1),
        ("*/25 * * * *", 10),
        ("30 2 * * *", 1440),
        ("0 0,1 * * *", 60),
        ("0 23,0 * * *", 60),
        ("0 23,0 * * mon", 23 * 60),
        ("0 0 1 * *", 28 * 1440),
        ("0 0 29 2 *", 1461 * 1440),
        ("@weekly", 7 * 1440),
    ],
)
def test_the_shortest_gap(text: str, minutes: int) -> None:
    assert parse_cron(text).shortest_gap() == minutes


def test_sunday_is_nought() -> None:
    assert parse_cron("0 0 * * 0").fires_on(date(2026, 11, 29))
    assert not parse_cron("0 0 * * 0").fires_on(date(2026, 11, 30))


@given(st.text(alphabet="0123456789*/-, @sunjaLW#?dily", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except ValueError:
        return
    assert parse_cron(cron.text) == cron
