"""Images that cannot be used cost themselves, and too many of them the run."""

from __future__ import annotations

import pytest

from jobs.errors import ExitCode, explain
from pipeline.badimages import BadImages, TooManyBad
from pipeline.samples import SampleError
from pipeline.storage import Unavailable


def failing(number: int) -> str:
    raise SampleError(f"{number}.png: there is no such image")


def test_each_is_told_once_and_not_tried_again() -> None:
    said: list[str] = []
    bad = BadImages("data.train", 40, 0.05, said.append)
    assert bad.attempt(0, str) == "0"
    assert [bad.attempt(7, failing) for _ in range(3)] == [None] * 3
    assert bad.attempt(7, str) is None
    bad.add({7: "again", 8: "8.png: of another process"})
    assert said == [
        "data.train: left out: 7.png: there is no such image",
        "data.train: left out: 8.png: of another process",
    ]
    with pytest.raises(TooManyBad) as told:
        bad.attempt(5, failing)
    assert str(told.value).splitlines()[:2] == [
        "data.train: 3 of 40 images cannot be used, and data.max_bad (0.05) allows 2:",
        "  5.png: there is no such image",
    ]
    code, text = explain(told.value) or (None, "")
    assert code == ExitCode.TOO_MANY_FAILED
    assert "raise data.max_bad" in text


@pytest.mark.parametrize(
    ("images", "share", "most"), [(10, 0.05, 1), (40, 0.05, 2), (10, 0, 0), (1, 0.05, 0), (3, 0.99, 2)]
)
def test_so_many_may_be_bad(images: int, share: float, most: int) -> None:
    assert BadImages("data.val", images, share, print).most == most


def test_a_store_that_does_not_answer_is_no_bad_image() -> None:
    def unavailable(number: int) -> str:
        raise Unavailable("no answer")

    bad = BadImages("data.train", 40, 0.05, print)
    with pytest.raises(Unavailable):
        bad.attempt(0, unavailable)
    assert not bad.reasons
