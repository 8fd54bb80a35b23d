"""Checkpoints are whole or not there, the newest rules, and a second writer is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import CheckpointError, Checkpoints
from pipeline.storage import Store


def tensors(value: float) -> dict[str, torch.Tensor]:
    """A scalar, an int64 counter, and a tensor that does not lie in order."""
    return {
        "model/a": torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last),
        "criterion/step": torch.tensor(7),
        "optimizer/step/a": torch.tensor(value),
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    own = Checkpoints(Store.open(str(tmp_path)), "r1")
    assert own.latest() is None
    own.put(10, tensors(0.1), {"counters": {"step": 10}})
    found = Checkpoints(Store.open(str(tmp_path)), "r2").latest()
    assert found is not None
    assert (found.step, found.state) == (10, {"counters": {"step": 10}})
    for name, value in tensors(0.1).items():
        assert torch.equal(found.tensors[name], value)
        assert found.tensors[name].dtype == value.dtype


def test_the_newest_rules_and_old_ones_go(tmp_path: Path) -> None:
    own = Checkpoints(Store.open(str(tmp_path)), "r1")
    for step in (5, 10, 15):
        own.put(step, tensors(step), {})
    found = own.latest()
    assert found is not None
    assert found.step == 15
    steps = ("000000010", "000000015")
    assert names(tmp_path) == sorted([f"{s}-r1.safetensors" for s in steps] + [f"{s}.json" for s in steps])


def test_tensors_without_a_record_are_not_a_checkpoint(tmp_path: Path) -> None:
    """A run that died between the two; its remains go when newer checkpoints are there."""
    own = Checkpoints(Store.open(str(tmp_path)), "r1")
    own.put(5, tensors(5), {})
    (tmp_path / "checkpoints" / "000000010-dead.safetensors").write_bytes(b"half")
    found = own.latest()
    assert found is not None
    assert found.step == 5
    for step in (10, 15, 20):
        own.put(step, tensors(step), {})
    assert "000000010-dead.safetensors" not in names(tmp_path)


def test_a_second_run_that_writes_is_told(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    one, two = Checkpoints(store, "r1"), Checkpoints(store, "r2")
    one.put(5, tensors(1), {})
    with pytest.raises(CheckpointError, match="was written by another run of this training"):
        two.put(5, tensors(2), {})
    assert names(tmp_path) == ["000000005-r1.safetensors", "000000005.json"]
    one.put(5, tensors(1), {})  # a put whose answer was lost is made again


@pytest.mark.parametrize("damage", ["record", "tensors", "missing"])
def test_damage_is_told_with_its_remedy(damage: str, tmp_path: Path) -> None:
    own = Checkpoints(Store.open(str(tmp_path)), "r1")
    own.put(5, tensors(1), {})
    file = tmp_path / "checkpoints" / "000000005-r1.safetensors"
    record = tmp_path / "checkpoints" / "000000005.json"
    if damage == "record":
        record.write_text("{")
    elif damage == "tensors":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"000000005\.json is damaged"):
        own.latest()


def test_nothing_of_a_checkpoint_is_pickled(tmp_path: Path) -> None:
    Checkpoints(Store.open(str(tmp_path)), "r1").put(5, tensors(1), {"a": 1})
    data = (tmp_path / "checkpoints" / "000000005-r1.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert set(json.loads(data[8 : 8 + length])) == set(tensors(1))
