"""What a run says of itself in words: its line as it goes, and its table at the end."""

from __future__ import annotations

import io
import time
from typing import Any

from rich.console import Console

from jobs.progress import RunProgress
from jobs.report import print_report
from jobs.tally import Tally
from pipeline.nouns import many


def test_a_rate_is_told_once_there_is_one() -> None:
    tally = Tally()
    progress = RunProgress(3, tally, Console(file=io.StringIO()))
    assert progress.line() == "0/3 images · starting · 0 instances"
    tally.statuses["corrupt"] = 2
    progress.update(None)  # no model ran for them
    assert progress.line() == "2/3 images · 0 instances · 2 corrupt"
    tally.statuses["ok"] = 1
    progress.update(time.time() - 30)
    assert progress.line() == "3/3 images · 0.1 images/s · 0 instances · 2 corrupt"


def test_one_thing_is_told_of_in_the_singular() -> None:
    assert [many(count, "image") for count in (0, 1, 2, 2000)] == [
        "0 images", "1 image", "2 images", "2,000 images"
    ]  # fmt: skip
    assert [many(2, noun) for noun in ("class", "batch", "box")] == ["2 classes", "2 batches", "2 boxes"]
    tally = Tally(instances=1)
    assert RunProgress(1, tally, Console(file=io.StringIO())).line() == "0/1 image · starting · 1 instance"


def ended(*busy: float) -> str:
    accounts: dict[str, Any] = {
        "images": 3, "statuses": {"ok": 3}, "instances": 5, "classes": {"plant": 5}, "skipped": {}, "run": {},
        "workers": {str(number): {"model_busy": share} for number, share in enumerate(busy)},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    print_report(console, accounts, "out")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_least_busy_worker_is_told_of_where_it_was_less_busy() -> None:
    for busy in ((1.0,), (1.0, 0.9999)):
        assert "model busy  100% of the workers' time " in ended(*busy)
        assert "at least" not in ended(*busy)
    assert "model busy  75% of the workers' time, 50% at least " in ended(1.0, 0.5)
