"""Many crops put into their frames at once are, to the byte, what they are one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condinst import frames, rle
from condinst.frames import Crops, embed_many


def packed(strings: list[bytes]) -> tuple[Any, Any]:
    text = np.frombuffer(b"".join(strings), np.uint8)
    return text, np.concatenate([[0], np.cumsum([len(s) for s in strings])]).astype(np.int64)


def unpacked(text: Any, bounds: Any) -> list[bytes]:
    data = text.tobytes()
    return [data[a:b] for a, b in pairwise(bounds)]


def crops_of(places: list[tuple[int, ...]]) -> Crops:
    columns = np.array(places, np.int64).reshape(-1, 6).T
    return Crops(*columns)


Case = tuple[Any, int, int, int, int]
masks = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
margins = st.integers(0, 40)
cases = st.lists(st.tuples(masks, margins, margins, margins, margins), max_size=12)


@given(cases, st.integers(1, 60))
def test_they_are_those_of_embed_one_by_one(found: list[Case], chunk: int) -> None:
    strings, places, wanted = [], [], []
    for mask, left, top, right, bottom in found:
        height, width = mask.shape
        place = (left, top, height, width, top + height + bottom, left + width + right)
        strings.append(rle.encode(mask))
        places.append(place)
        wanted.append(rle.embed(strings[-1], *place))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "_CHARACTERS", chunk)
        assert unpacked(*embed_many(*packed(strings), crops_of(places))) == wanted


@given(st.lists(st.lists(st.integers(0, 2**35), max_size=9), max_size=9))
def test_runs_of_many_strings_are_those_of_each(runs: list[list[int]]) -> None:
    strings = [rle.from_runs(np.array(r, np.int64)) for r in runs]
    lengths, bounds = rle.many_runs(*packed(strings))
    assert [lengths[a:b].tolist() for a, b in pairwise(bounds)] == runs
    for string, wanted in zip(strings, runs, strict=True):
        assert rle.runs(string).tolist() == wanted


def test_runs_that_are_empty_or_go_on_are_one_in_the_frame() -> None:
    """Other writers than ours may leave runs of no pixel in a string."""
    odd = rle.from_runs(np.array([0, 2, 0, 2, 1, 0, 1]))
    plain = rle.encode(rle.decode(odd, 2, 3))
    place = (1, 1, 2, 3, 4, 5)
    assert unpacked(*embed_many(*packed([odd]), crops_of([place]))) == [rle.embed(plain, *place)]


@pytest.mark.parametrize(
    ("bad", "place", "what"),
    [
        (rle.from_runs(np.array([6])), (0, 0, 2, 2, 9, 9), "mask 1: the RLE has 6 pixels"),
        (rle.from_runs(np.array([4])), (8, 0, 2, 2, 9, 9), "mask 1: a crop of 2x2 at x=8, y=0"),
        (b"\x7f", (0, 0, 2, 2, 9, 9), "mask 1: not a COCO compressed RLE"),
        (b"\x00", (0, 0, 2, 2, 9, 9), "mask 1: not a COCO compressed RLE"),
        (b"P", (0, 0, 2, 2, 9, 9), "mask 1: not a COCO compressed RLE"),
        (b"A", (0, 0, 2, 2, 9, 9), "mask 1: the RLE has 17 pixels|mask 1: .* negative"),
        (b"O", (0, 0, 2, 2, 9, 9), "mask 1: .* negative"),
        (b"", (0, 0, 2, 2, 9, 9), "mask 1: the RLE has 0 pixels"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1000])
def test_what_is_no_mask_is_named(
    bad: bytes, place: tuple[int, ...], what: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "_CHARACTERS", chunk)
    good = rle.from_runs(np.array([1, 3]))
    with pytest.raises(ValueError, match=what):
        embed_many(*packed([good, bad, good]), crops_of([(0, 0, 2, 2, 9, 9), place, (0, 0, 2, 2, 9, 9)]))
