"""A model's folder: versions are created once, moves too, and `current.json` leads to the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.models import Models, ModelsError, resolved
from pipeline.storage import Store, StoreError, StoreOptions
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
    back = own.move(own.before(second), second, "rollback", rollback=True)
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


class Forgetful(Store):
    """A store whose answers to creating are lost: it was done, and then found done."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return super().create(key, data)


def forgetful(folder: Path) -> Models:
    store = Store.open(str(folder / "mushrooms"))
    store.__class__ = Forgetful
    return Models(store)


def test_a_lost_answer_takes_no_second_number_and_blames_nobody(tmp_path: Path) -> None:
    own = forgetful(tmp_path)
    version = own.add(b"one", {})
    assert version == 1
    assert own.move(version, None, "first").version == 1
    assert sorted(p.name for p in (tmp_path / "mushrooms/versions").iterdir()) == [
        "000001.json",
        "000001.safetensors",
    ]
    assert json.loads((tmp_path / "mushrooms/current.json").read_text())["version"] == 1


def test_weights_that_a_crash_kept_from_their_record_come_with_the_next_add(tmp_path: Path) -> None:
    own = models(tmp_path)
    own.add(b"one", {"ap": 0.1})
    (tmp_path / "mushrooms/versions/000001.safetensors").unlink()
    assert own.add(b"one", {}) == 1
    assert (tmp_path / "mushrooms/versions/000001.safetensors").read_bytes() == b"one"
    assert own.record(1)["ap"] == 0.1


def test_current_json_follows_a_move_that_came_between(tmp_path: Path) -> None:
    """The other's move is there when ours is repeated: `current.json` is the other's, whoever writes last."""
    own, other = models(tmp_path), models(tmp_path)
    first = own.move(own.add(b"one", {}), None, "first")
    a, b = own.add(b"two", {}), own.add(b"three", {})
    put = own.store.put

    def late(key: str, data: bytes) -> None:
        own.store.put = put  # type: ignore[method-assign]
        current = other.current()
        assert current is not None
        other.move(b, current, "b")
        put(key, data)

    own.store.put = late  # type: ignore[method-assign,assignment]
    own.move(a, first, "a")
    assert json.loads((tmp_path / "mushrooms/current.json").read_text())["version"] == b


class Careless(Store):
    """A store that overwrites what is to be created only if absent."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


def test_a_store_that_overwrites_is_refused_and_nothing_written(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "mushrooms"))
    store.__class__ = Careless
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        Models(store).add(b"one", {})
    assert not list(store.list())
    kept = models(tmp_path)
    version = kept.add(b"one", {})
    before = {info.key for info in store.list()}
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        Models(store).move(version, None, "first")
    assert {info.key for info in store.list()} == before


def test_the_store_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Store] = []
    monkeypatch.setattr(Store, "probe", lambda store: looked.append(store))
    own = models(tmp_path)
    own.move(own.add(b"one", {}), None, "first")
    assert looked == [own.store]


def line_of(own: Models, *versions: int) -> None:
    """Promote these, one after another."""
    for version in versions:
        own.move(own.add(str(version).encode(), {}), own.current(), "better")


def back(own: Models) -> int:
    current = own.current()
    assert current is not None
    return own.move(own.before(current), current, "rollback", rollback=True).version


def test_rollbacks_go_on_back(tmp_path: Path) -> None:
    own = models(tmp_path)
    line_of(own, 1, 2, 3)
    assert [back(own), back(own)] == [2, 1]
    with pytest.raises(ModelsError, match="version 1 is the first"):
        back(own)


def test_a_promotion_after_a_rollback_takes_the_place_of_what_was_current(tmp_path: Path) -> None:
    own = models(tmp_path)
    line_of(own, 1, 2)
    back(own)
    line_of(own, 3)
    assert back(own) == 1
    line_of(own, 2, 1)  # version 1 once more, in the place of 2
    assert [back(own), back(own)] == [2, 1]


def test_moves_of_old_say_in_words_that_they_went_back(tmp_path: Path) -> None:
    own = models(tmp_path)
    line_of(own, 1, 2, 3)
    back(own)
    path = tmp_path / "mushrooms/moves/000004.json"
    old = json.loads(path.read_text())
    del old["rollback"]
    path.write_text(json.dumps({**old, "why": "rollback from version 3"}))
    assert back(own) == 1
