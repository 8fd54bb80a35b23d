"""Comparing runs: a run with itself says nothing, two thresholds exactly what lies between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from condinst import rle
from pipeline.diff import Accounts, Change, Kind, Tolerance, diff
from pipeline.export.selection import Selection
from pipeline.filtering import filter_run
from pipeline.matching import Shapes, match, overlaps
from pipeline.storage import Store
from pipeline.tables import Run
from tests.made import edit, made_job, made_output, plan_of, rewrite, work

Key = tuple[str, int]


def compared(before: Run, after: Run, **how: Any) -> tuple[Accounts, list[Change]]:
    accounts = Accounts()
    changes = [change for image in diff(before, after, accounts, **how) for change in image.changes]
    return accounts, changes


def keys(run: Run, below: float) -> set[Key]:
    rows = run.instances().to_pylist()
    return {(row["image_id"], row["instance_id"]) for row in rows if row["score"] < below}


def of(changes: list[Change], kind: Kind) -> set[Key]:
    return {(c.row["image_id"], c.row["instance_id"]) for c in changes if c.kind is kind}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(made_output(str(tmp_path / "out"), tmp_path / "in", images=22))


def test_a_run_is_equal_to_itself(run: Run) -> None:
    accounts, changes = compared(run, run)
    assert accounts.empty
    assert accounts.images == 22
    assert accounts.kinds == {Kind.SAME: run.instances().num_rows}
    assert all(change.iou == 1 and change.pixels == 0 for change in changes)


def test_equal_masks_of_two_classes_are_told_apart(run: Run) -> None:
    """A model may find one thing twice, as this and as that; neither has then changed."""
    shard = "0000-000000"
    first = run.instances().slice(0, 1).to_pylist()[0]
    for at in (1, 2):
        rewrite(run.store, shard, "instances", edit(at, mask=first["mask"], area=first["area"]))
    again = Run(run.store)
    assert compared(again, again)[0].empty


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_two_thresholds_differ_by_the_instances_between_them(
    run: Run, tmp_path: Path, threshold: float
) -> None:
    target = Store.open(str(tmp_path / "sure"))
    filter_run(run, target, Selection(min_score=threshold))
    accounts, changes = compared(run, Run(target))
    between = keys(run, below=threshold)
    assert of(changes, Kind.LOST) == between != set()
    assert {change.kind for change in changes} == {Kind.SAME, Kind.LOST}
    assert accounts.kinds[Kind.LOST] == len(between)
    back, changes = compared(Run(target), run)
    assert of(changes, Kind.GAINED) == between
    assert back.kinds[Kind.GAINED] == len(between)


def test_other_classes_and_shapes_are_found(run: Run, tmp_path: Path) -> None:
    other = made_output(str(tmp_path / "other"), tmp_path / "in", images=22)
    rows = run.instances().to_pylist()
    shard = "0000-000000"

    def other_class(table: pa.Table) -> pa.Table:
        listed = table.to_pylist()
        listed[0]["category"], listed[0]["category_id"] = "roof", 3
        return pa.Table.from_pylist(listed, schema=table.schema)

    rewrite(other, shard, "instances", other_class)
    mask = rows[1]["mask"]
    pixels = rle.decode(mask["counts"], mask["height"], mask["width"]).copy()
    gone = int(pixels[1:-1, 1:-1].sum() * 0.4)
    inner = np.argwhere(pixels[1:-1, 1:-1])[:gone] + 1
    pixels[tuple(inner.T)] = False
    change = {"mask": {**mask, "counts": rle.encode(pixels)}, "area": int(pixels.sum())}
    rewrite(other, shard, "instances", edit(1, **change))
    accounts, changes = compared(run, Run(other), tolerance=Tolerance(0.3, 0.95))
    assert accounts.kinds == {Kind.SAME: len(rows) - 2, Kind.CLASS: 1, Kind.SHAPE: 1}
    assert accounts.reclassified == {("plant", "roof"): 1}
    assert accounts.classes["plant", Kind.CLASS] == 1
    (shape,) = [change for change in changes if change.kind is Kind.SHAPE]
    assert shape.pixels == gone
    assert shape.iou == pytest.approx(1 - gone / rows[1]["area"])


def test_images_of_one_run_alone_and_of_other_sizes_are_counted(run: Run, tmp_path: Path) -> None:
    less = made_output(str(tmp_path / "less"), tmp_path / "less-in", images=12)
    rewrite(less, "0000-000000", "images", edit(0, width=90))
    rewrite(less, "0000-000000", "images", edit(1, status="failed"))
    accounts, _ = compared(run, Run(less))
    assert (accounts.images, accounts.only_before, accounts.only_after) == (12, 10, 0)
    assert (accounts.other_size, accounts.statuses) == (1, {("ok", "failed"): 1})
    accounts, _ = compared(Run(less), run)
    assert (accounts.images, accounts.only_before, accounts.only_after) == (12, 0, 10)
    assert not accounts.empty


def test_runs_of_other_shards_are_compared_by_their_images(run: Run, tmp_path: Path) -> None:
    """The second run committed fewer shards: its images lie under other numbers."""
    store = made_job(str(tmp_path / "some"), tmp_path / "in", images=22)
    shards = plan_of(store).shard_ids()
    for shard in (shards[4], shards[2], shards[5]):
        work(store, shard)
    some = Run(store)
    accounts, changes = compared(run, some)
    assert accounts.only_before == 22 - accounts.images == 12
    assert {change.kind for change in changes} == {Kind.SAME}
    assert compared(some, run)[0].only_after == 12


masks = st.lists(hnp.arrays(bool, (6, 7)), max_size=5)


@given(masks, masks)
def test_overlaps_are_the_ious_of_the_pixels(one: list[Any], other: list[Any]) -> None:
    sides = [Shapes.of_rles([rle.encode(mask) for mask in side], (6, 7)) for side in (one, other)]
    found = overlaps(*sides)
    got = {(a, b): iou for a, b, iou in zip(found.first, found.second, found.iou, strict=True)}
    for a, mine in enumerate(one):
        for b, theirs in enumerate(other):
            union = (mine | theirs).sum()
            wanted = (mine & theirs).sum() / union if union else 0
            assert got.get((a, b), 0) == pytest.approx(wanted)
    pairs = match(found, 0.3)
    assert len({a for a, _, _ in pairs}) == len({b for _, b, _ in pairs}) == len(pairs)
    free_a = set(range(len(one))) - {a for a, _, _ in pairs}
    free_b = set(range(len(other))) - {b for _, b, _ in pairs}
    assert not any(got.get((a, b), 0) >= 0.3 for a in free_a for b in free_b)
