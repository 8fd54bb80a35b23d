"""Inputs come in order, and only so many are held ahead of the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from condinst.config import FixedScale, InputConfig
from condinst.preprocess import prepare
from pipeline.clock import Clock
from pipeline.decode import DecodeLimits
from pipeline.feeding import Feeder, Ready, Refused
from pipeline.inputs import Inputs
from pipeline.records import ImageRef, Status
from pipeline.sources import InputSource
from tests.tiny import encoded, picture

COUNT = 40
PIXELS = 64 * 64 * 3
CONFIG = InputConfig(resize=FixedScale(scale=1.0))


class Counting(Inputs):
    """Inputs that count what was fetched."""

    fetched = 0
    lock = threading.Lock()

    def fetch(self, ref: ImageRef, limit_bytes: int) -> Any:
        with self.lock:
            self.fetched += 1
        return super().fetch(ref, limit_bytes)


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    data = encoded(picture(0, 64, 64))
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes(data)
    return [ImageRef(f"{n}.png", str(tmp_path / f"{n}.png"), 0) for n in range(COUNT)]


@contextmanager
def feeder(images: int, bytes: int) -> Iterator[tuple[Feeder, Counting]]:
    inputs = Counting([InputSource("/")])
    resize = lambda image, size: prepare(image, CONFIG, size)  # noqa: E731
    made = Feeder(inputs, resize, DecodeLimits(), images, bytes, decoders=2)
    yield made, inputs
    made.close()


def settled(inputs: Counting) -> int:
    """How many were fetched, once no more are."""
    before = -1
    while before != inputs.fetched:
        before = inputs.fetched
        time.sleep(0.2)
    return before


def test_all_come_in_order(refs: list[ImageRef]) -> None:
    with feeder(8, 10**9) as (made, _):
        items = list(made.stream(refs, Clock()))
    assert [item.index for item in items] == list(range(COUNT))
    assert [item.outcome.ref for item in items] == refs


@pytest.mark.parametrize("images", [1, 5])
def test_no_more_images_are_held_than_allowed(refs: list[ImageRef], images: int) -> None:
    with feeder(images, 10**9) as (made, inputs):
        stream = made.stream(refs, Clock())
        for taken in range(1, 20):
            next(stream)
            assert inputs.fetched <= taken + images
        assert settled(inputs) <= 19 + images


def test_no_more_bytes_are_held_than_allowed(refs: list[ImageRef]) -> None:
    with feeder(COUNT, 6 * PIXELS) as (made, inputs):
        stream = made.stream(refs, Clock())
        for _ in range(10):
            next(stream)
        deadline = time.monotonic() + 60
        while inputs.fetched <= 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 10 < settled(inputs) <= 16


def test_an_image_larger_than_all_that_is_allowed_still_passes(refs: list[ImageRef]) -> None:
    with feeder(COUNT, 10) as (made, _):
        assert len(list(made.stream(refs, Clock()))) == COUNT


def test_bad_inputs_are_refused_in_their_place(refs: list[ImageRef]) -> None:
    Path(refs[3].uri).unlink()
    Path(refs[5].uri).write_bytes(b"")
    refs[7] = ImageRef("7", refs[7].uri, 0, problem="the name holds '//'")
    with feeder(4, 10**9) as (made, _):
        items = list(made.stream(refs, Clock()))
    refused = {item.index: item.outcome.status for item in items if isinstance(item, Refused)}
    assert refused == {3: Status.MISSING, 5: Status.CORRUPT, 7: Status.UNSUPPORTED}
    assert all(item.outcome.size == (64, 64) for item in items if isinstance(item, Ready))


def test_an_unexpected_error_is_the_images_own(refs: list[ImageRef]) -> None:
    def fail(image: Any, size: Any) -> Any:
        raise KeyError("unheard of")

    made = Feeder(Inputs([InputSource("/")]), fail, DecodeLimits(), 4, 10**9, decoders=1)
    (item,) = list(made.stream(refs[:1], Clock()))
    made.close()
    assert isinstance(item, Refused)
    assert (item.outcome.status, item.outcome.error) == (Status.FAILED, "KeyError: 'unheard of'")
