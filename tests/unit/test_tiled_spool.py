"""Stitched instances on their way to rows: in order, some at a time, whatever their masks' size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condinst.instances import Instances
from pipeline.stitch.fragments import concatenated, pick
from pipeline.stitch.order import order_keys, row_order
from pipeline.tiled import spool as module
from pipeline.tiled.spool import BATCH_BYTES, Spool, _batches
from tests.rasters import blobs


def found(count: int, seed: int) -> Instances:
    masks = blobs(count, 400, 300, seed)
    corners = np.column_stack([masks.x, masks.y, masks.x + masks.width, masks.y + masks.height])
    scores = np.random.default_rng(seed).uniform(0.3, 1, count).astype(np.float32)
    return Instances(corners.astype(np.float32), scores, np.zeros(count, np.int64), masks)


def as_list(instances: Instances) -> list[tuple[object, ...]]:
    masks = instances.masks
    return list(zip(instances.scores.tolist(), masks.x.tolist(), masks.y.tolist(), masks.counts, strict=True))


@given(st.lists(st.integers(1, BATCH_BYTES * 2), max_size=30), st.integers(1, 5))
def test_a_batch_has_few_instances_and_few_bytes_but_where_one_is_large(
    lengths: list[int], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", most)
        slices = list(_batches(np.array(lengths, np.int64)))
    assert [at for part in slices for at in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in slices:
        assert 1 <= part.stop - part.start <= most
        assert sum(lengths[part][1:]) <= BATCH_BYTES


@pytest.mark.parametrize("room", [1, 200, BATCH_BYTES])
def test_rows_come_in_their_order_whatever_the_batches(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", room)
    parts, owners = [found(40, seed) for seed in range(3)], np.arange(40) % 2
    everything = concatenated(parts)
    mine = np.flatnonzero(np.tile(owners, 3) == 1)
    expected = pick(everything, mine[row_order(order_keys(everything)[mine])])
    with Spool() as spool:
        for part in parts:
            spool.add(part, owners)
        batches = list(spool.rows(1))
        assert as_list(concatenated(batches)) == as_list(expected)
        assert as_list(concatenated(part for part, _ in spool.all())) == as_list(everything)
        left_out = np.zeros(len(spool), bool)
        left_out[mine[0]] = True
        assert len(concatenated(spool.rows(1, left_out))) == len(mine) - 1
        assert list(spool.rows(7)) == []
    assert (len(batches) > 1) == (room < BATCH_BYTES)
