"""How many inputs may fail: told exactly, whatever the order of the shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.allowance import Allowance, too_many
from jobs.check import load_text
from jobs.errors import ExitCode, JobError, SpecError
from jobs.retry import parse_statuses
from jobs.tally import Tally
from pipeline.ledger import Ledger
from tests.made import made_output

SPEC = "kind: segment\nname: beds\ninput: {uri: photos}\noutput: {uri: out}\nmax_failed: "


def tally(**statuses: int) -> Tally:
    return Tally(statuses=Counter(statuses))


@pytest.mark.parametrize(
    ("stated", "planned", "most"),
    [
        ("1%", 1000, 10),
        ("0.5%", 1000, 5),
        ("1%", 99, 0),
        ("100%", 7, 7),
        (0, 7, 0),
        (3, 7, 3),
        ("29%", 17, 4),
    ],
)
def test_it_is_exceeded_by_one_more(stated: int | str, planned: int, most: int) -> None:
    allowance = Allowance(stated, planned)
    assert not allowance.exceeded(tally(ok=1, empty=2, nodata=3, corrupt=most))
    assert allowance.exceeded(tally(missing=1, corrupt=most))


@given(planned=st.integers(0, 10**9), hundredths=st.integers(0, 10_000), bad=st.integers(0, 10**9))
def test_a_share_is_exact(planned: int, hundredths: int, bad: int) -> None:
    stated = f"{hundredths / 100:.2f}%"
    assert Allowance(stated, planned).exceeded(tally(failed=bad)) == (bad * 10_000 > hundredths * planned)


def test_without_one_any_number_may_fail() -> None:
    assert not Allowance(None, 10).exceeded(tally(failed=10**9))


@pytest.mark.parametrize(("text", "value"), [("1%", "1%"), ("0.5 %", "0.5 %"), ("100", 100), ("null", None)])
def test_what_a_spec_may_say(text: str, value: object) -> None:
    assert load_text(SPEC + text, "s").max_failed == value


@pytest.mark.parametrize("text", ["0.01", "101%", "-1", "true", "'1'", "many", "[1]", "1e3", "{}", "'١%'"])
def test_what_a_spec_may_not_say(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"s:5:13: max_failed: (.* was given; )?expected a share .* such as 1% or 0\.5%, or a"
    ):
        load_text(SPEC + text, "s")


def test_it_says_how_many_which_and_how_to_look_on(tmp_path: Path) -> None:
    ledger = Ledger(made_output(str(tmp_path / "out"), tmp_path / "in", 20))
    allowance = Allowance("10%", 20)
    said = Tally.of(ledger.records())
    assert allowance.exceeded(said)
    error = too_many(ledger, allowance, said, "the job was stopped")
    assert error.code == ExitCode.TOO_MANY_FAILED
    assert str(error).splitlines() == [
        "4 of 20 planned inputs ended badly (4 corrupt), and max_failed is 10%; the job was stopped",
        "  004.png: corrupt, cut off",
        "  009.png: corrupt, cut off",
        "  014.png: corrupt, cut off",
        f"To look on: SELECT status, error, count(*) FROM '{tmp_path}/out/images/*.parquet' GROUP BY ALL",
        "When that is as it should be, run the job again with a higher max_failed: it goes on.",
    ]


def test_statuses_to_retry() -> None:
    assert parse_statuses(" corrupt, failed,") == {"corrupt", "failed"}
    for text in ("", ",", "ok", "corrupt,nodata", "nonsense"):
        with pytest.raises(JobError, match="cannot be retried; give some of corrupt,failed,missing"):
            parse_statuses(text)
