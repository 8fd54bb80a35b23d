"""Generations of a growing input: each object once, a changed one as another image."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.growing import known_rows
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource, Plan, extend, freeze, load_plans, read_shard, scan
from pipeline.records import ImageRef
from pipeline.storage import Store


def listed(folder: Path, objects: dict[str, str | None]) -> InputSource:
    """An input that lists these objects, name to etag, as a user's manifest does."""
    lines = [f"s3://farm/{name},{etag or ''}" for name, etag in sorted(objects.items())]
    path = folder / "list.csv"
    path.write_text("\n".join(["uri,etag", *lines]) + "\n")
    return InputSource(str(path), manifest=True, new=True)


def rows(output: Store, plans: list[Plan]) -> list[ImageRef]:
    return [
        ref for plan in plans for number in range(plan.shards) for ref in read_shard(output, plan, number)
    ]


def grown(output: Store, source: InputSource, shard_size: int = 3) -> list[Plan]:
    """The plans after one more run."""
    plans = load_plans(output)
    if not plans:
        return [freeze([source], output, shard_size, 0)]
    more, found = extend([source], output, plans, known_rows(Ledger(output), plans))
    assert (more.images if more else 0) == found.images
    return [*plans, more] if more else plans


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 12), st.integers(0, 3), min_size=1, max_size=10),
        min_size=2,
        max_size=5,
    )
)
def test_every_version_of_every_object_is_planned_once(states: list[dict[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Store.open(f"{folder}/out")
        seen: set[tuple[str, str]] = set()
        for state in states:
            objects = {f"{name:02}.jpg": f"etag{version}" for name, version in state.items()}
            plans = grown(output, listed(Path(folder), objects))
            seen |= {(f"s3://farm/{name}", etag) for name, etag in objects.items()}
            planned = rows(output, plans)
            assert Counter((ref.uri, ref.etag) for ref in planned) == Counter(seen)
            assert len({ref.image_id for ref in planned}) == len(planned)
            assert load_plans(output) == plans
        assert [plan.generation for plan in plans] == list(range(len(plans)))


def test_a_changed_object_is_another_image_and_keeps_its_name(tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    for etag in ("one", "two", "two", "one"):
        plans = grown(output, listed(tmp_path, {"a.jpg": etag, "b.jpg": "b"}))
    first, second = rows(output, plans)[:2], rows(output, plans)[2:]
    assert [ref.image_id for ref in first] == ["s3://farm/a.jpg", "s3://farm/b.jpg"]
    (changed,) = second
    assert (changed.uri, changed.etag) == ("s3://farm/a.jpg", "two")
    assert changed.image_id.startswith("s3://farm/a.jpg@")


def test_without_an_etag_an_object_counts_as_unchanged(tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    states: list[dict[str, str | None]] = [{"a": None, "b": "1"}, {"a": "1", "b": None}, {"a": "2", "b": "1"}]
    for state in states:
        plans = grown(output, listed(tmp_path, state))
    assert len(plans) == 1


def test_ids_of_new_inputs_that_are_taken_are_told_apart(tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("uri,name\ns3://farm/1.jpg,plot\n")
    new.write_text("uri,name\ns3://other/1.jpg,plot\n")
    sources = [
        InputSource(str(path), manifest=True, id_column="name", new=path is new) for path in (old, new)
    ]
    plans = [freeze(sources[:1], output, 3, 0)]
    more, found = extend(sources, output, plans, known_rows(Ledger(output), plans))
    assert more is not None
    assert (found.images, found.known, found.changed) == (1, 0, 0)
    (ref,) = rows(output, [more])
    assert ref.image_id.startswith("plot@")
    assert ref.source == 1


def test_only_inputs_that_say_so_are_looked_at_again(tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    for name in ("kept", "grows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    sources = [
        InputSource(str(tmp_path / "kept"), name="kept"),
        InputSource(str(tmp_path / "grows"), name="grows", new=True),
    ]
    plans = [freeze(sources, output, 3, 0)]
    for name in ("kept", "grows"):
        (tmp_path / name / "2.jpg").write_bytes(b"y")
    known = known_rows(Ledger(output), plans)
    assert (scan(sources, output, known).images, scan(sources, output, known).known) == (1, 1)
    more, _ = extend(sources, output, plans, known)
    assert more is not None
    assert [ref.image_id for ref in rows(output, [more])] == ["grows/2.jpg"]


def test_what_is_skipped_is_told_of_once(tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    folder = tmp_path / "in"
    folder.mkdir()
    source = InputSource(str(folder), include=("*.jpg",), new=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"x")
        (folder / f"{number}.txt").write_bytes(b"x")
        plans = grown(output, source)
    assert [dict(plan.skipped) for plan in plans] == [{"not_included": 1}] * 3


def test_a_manifest_that_is_gone_is_no_reason_to_plan_everything_again(tmp_path: Path) -> None:
    from pipeline.manifest import PlanError

    output = Store.open(str(tmp_path / "out"))
    source = listed(tmp_path, {"a": "1"})
    (plan,) = grown(output, source)
    output.delete([plan.files[0].path])
    with pytest.raises(PlanError, match="restore it"):
        grown(output, source)
