"""A model's folder: versions are created once, moves too, and `current.json` leads to the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.models import Models, ModelsError, resolved
from pipeline.storage import Store, StoreOptions
from pipeline.weights import fetch_weights

NO = StoreOptions()


def models(folder: Path) -> Models:
    return Models(Store.open(str(folder / "mushrooms")))


def test_promotions_and_a_rollback(tmp_path: Path) -> None:
    own = models(tmp_path)
    assert own.current() is None
    first = own.move(own.add(b"one", {"ap": 0.1}), None, "first")
    second = own.move(own.add(b"two", {"ap": 0.2}), first, "better")
    assert (first.version, second.version, second.move) == (1, 2, 2)
    back = own.move(own.before(second), second, "rollback")
    assert own.current() == back
    assert (back.version, back.move) == (1, 3)
    assert json.loads((tmp_path / "mushrooms/current.json").read_text())["file"] == back.file
    assert (tmp_path / "mushrooms" / back.file).read_bytes() == b"one"
    assert own.record(2)["ap"] == 0.2


def test_of_two_that_promote_at_once_one_is_told(tmp_path: Path) -> None:
    own = models(tmp_path)
    first = own.move(own.add(b"one", {}), None, "first")
    a, b = own.add(b"two", {}), own.add(b"three", {})
    assert (a, b) == (2, 3)
    own.move(a, first, "a")
    with pytest.raises(ModelsError, match="has changed meanwhile"):
        own.move(b, first, "b")
    current = own.current()
    assert current is not None
    assert current.version == 2


def test_the_same_weights_are_one_version(tmp_path: Path) -> None:
    own = models(tmp_path)
    assert own.add(b"one", {}) == own.add(b"one", {}) == 1
    assert own.add(b"two", {}) == 2


def test_current_stands_for_a_weights_file(tmp_path: Path) -> None:
    own = models(tmp_path)
    own.move(own.add(b"one", {}), None, "first")
    name = str(tmp_path / "mushrooms" / "current.json")
    assert fetch_weights(name, NO, tmp_path).read_bytes() == b"one"
    assert resolved("elsewhere/a.safetensors", NO) == "elsewhere/a.safetensors"
    with pytest.raises(ModelsError, match="no version was promoted there"):
        resolved(str(tmp_path / "tulips" / "current.json"), NO)


def test_where_there_is_nothing_before_is_told(tmp_path: Path) -> None:
    own = models(tmp_path)
    first = own.move(own.add(b"one", {}), None, "first")
    with pytest.raises(ModelsError, match="version 1 is the first"):
        own.before(first)
    with pytest.raises(ModelsError, match="there is no such version"):
        own.record(7)


def test_a_crash_before_current_json_loses_nothing(tmp_path: Path) -> None:
    """The moves rule: `current.json` only repeats the last one."""
    own = models(tmp_path)
    first = own.move(own.add(b"one", {}), None, "first")
    second = own.add(b"two", {})
    before = (tmp_path / "mushrooms/current.json").read_bytes()
    own.move(second, first, "better")
    (tmp_path / "mushrooms/current.json").write_bytes(before)
    assert resolved(str(tmp_path / "mushrooms/current.json"), NO).endswith("versions/000002.safetensors")
