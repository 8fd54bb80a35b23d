"""Specs and lists of images of somebody who means harm: refused in words, and nothing leaves its place."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from condinst.instances import Instances, RleMasks
from jobs.check import load_text
from jobs.cli import main
from jobs.errors import explain
from jobs.gallery import Gallery
from jobs.preview import preview
from jobs.segment import run_job
from pipeline import tables
from pipeline.globs import matcher
from pipeline.manifest import InputSource, Plan, freeze, read_shard
from pipeline.storage import Store, StoreError, StoreOptions
from tests.tiny import encoded, picture, tiny_weights

HOSTILE = [
    "../../x",
    "../" * 40 + "etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "//etc//passwd",
    "a/../../b",
    "./a/./b",
    "~/x",
    "~root/x",
    "a\0b",
    "line\nbreak",
    "\x1b[2J\x1b]0;title\x07",
    "[bold red]markup[/] [link=https://x]y[/link] [/]",
    "<script>alert(1)</script>",
    "'; DROP TABLE images; --",
    "%2e%2e%2f",
    "..\\..\\x",
    "\u202egnp.x",
    "é" * 300,
    "a" * 5000,
    "a/" * 2000 + "b",
    "",
    " ",
    ".",
    "..",
    "s3://../x",
    "s3://b/../../x",
    "https://host/x",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
]
texts = st.sampled_from(HOSTILE) | st.text(max_size=20)
numbers = st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**25, 1e308, 5e-324, float("inf"), float("nan")])
scalars = texts | numbers | st.booleans() | st.none()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(picture(number, 64, 64)))
    return folder


def quick_to_list(text: str) -> bool:
    """Not the disk's root, by whatever name."""
    return "\0" in text or len(os.path.abspath(os.path.expanduser(text))) > 2


def changes(root: str) -> st.SearchStrategy[list[tuple[str, object]]]:
    """A few settings of a good spec and what they are changed to; all on this disk."""
    places = st.sampled_from([f"{root}/0.png", f"{root}/none", f"{root}/../x"]) | texts.filter(quick_to_list)
    several = st.lists(texts, max_size=3) | texts
    values: dict[str, st.SearchStrategy[object]] = {
        "input.uri": places.filter(lambda text: "://" not in text or text.startswith("file:")),
        "input.include": several,
        "input.exclude": several,
        "input.manifest": st.booleans(),
        "input.uri_column": texts,
        "input.id_column": texts,
        "input.columns": several,
        "input.name": texts,
        "input.profile": texts,
        "input.region": texts,
        "input.endpoint": texts,
        "input.requests_per_second": numbers,
        "model.score_threshold": scalars,
        "model.classes": several,
        "model.class_thresholds": st.dictionaries(texts, numbers, max_size=2),
        "model.max_instances": numbers,
        "model.weights": texts.filter(lambda text: "://" not in text),
        "output.profile": texts,
        "shards.images": numbers,
        "workers.count": numbers,
        "workers.cpus": numbers,
        "workers.gpus": numbers,
        "limits.pixels": numbers,
        "limits.seconds": numbers,
        "max_failed": scalars,
        "name": texts,
        "precision": texts,
    }
    one = st.sampled_from(sorted(values)).flatmap(lambda key: st.tuples(st.just(key), values[key]))
    return st.lists(one, min_size=1, max_size=3)


def test_any_spec_is_planned_or_refused_in_words(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the end of `condinst plan`, which writes nothing: so a mistake in what is generated harms nobody."""
    planned = 0
    listed = tmp_path / "list.csv"
    listed.write_text("uri,a\n0.png,1\n")

    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    @given(changes(str(photos)), st.sampled_from([photos, listed]))
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    def plan(changed: list[tuple[str, object]], source: Path) -> None:
        nonlocal planned
        spec: dict[str, Any] = {"kind": "segment", "name": "x", "input": {"uri": str(source)}}
        spec |= {"model": {"weights": str(weights)}, "output": {"uri": str(tmp_path / "out")}}
        for key, value in changed:
            section, _, name = key.rpartition(".")
            (spec.setdefault(section, {}) if section else spec)[name] = value
        shown = io.StringIO()
        told = refusal(lambda: preview(load_text(yaml.safe_dump(spec), "spec"), Console(file=shown)))
        planned += told is None
        assert not (tmp_path / "out").exists()
        assert "\x1b]0" not in shown.getvalue()

    plan()
    assert planned > 20, "most of what a plan does was never reached"


def test_what_an_error_repeats_cannot_move_the_terminals_cursor(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"kind": "segment", "name": "x", "input": {"uri": str(photos)}, "output": {"uri": str(tmp_path)}}
    spec["model"] = {"weights": "gone\x1b]0;title\x07\n\u202ename"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.setattr("sys.argv", ["condinst", "plan", str(tmp_path / "spec.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "gone\\x1b]0;title\\x07" in told
    assert not set(told) & set("\x1b\x07\u202e")


def refusal(act: Callable[[], object]) -> str | None:
    """What a person is told when it is refused, None when it is not; anything else is a bug and raised."""
    try:
        act()
    except Exception as error:
        if (told := explain(error)) is None:
            raise
        return told[1]
    return None


@given(where=texts)
@settings(max_examples=60, deadline=None)
def test_any_name_of_a_place_is_one_or_is_refused(where: str) -> None:
    try:
        store = Store.open(where, StoreOptions(anonymous=True))
    except StoreError:
        return
    assert Store.open(store.uri).uri == store.uri
    if ".." in store.uri.split("/"):
        with pytest.raises(StoreError, match=r"'\.\.' between slashes"):
            store.put("x", b"")


def test_no_glob_takes_long() -> None:
    """Each of these took ages where every way to match was tried."""
    name = "/".join(["a" * 60] * 30)
    for pattern in (
        "*a" * 40 + "b",
        "**/a*/" * 30 + "b",
        "**/*a*a*a*b/" * 10 + "x",
        "*?" * 60 + "b",
        "[a]*" * 60,
    ):
        assert matcher([pattern], [])(name) in (None, "not_included")


# Lists of images


def write_list(folder: str, columns: dict[str, Any]) -> InputSource:
    path = f"{folder}/list.parquet"
    pq.write_table(pa.table(columns), path)
    return InputSource(path, manifest=True, id_column="id", columns=("note",))


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refs_of(output: Store, plan: Plan) -> Iterator[Any]:
    for number in range(plan.shards):
        yield from read_shard(output, plan, number)


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_list_is_planned_below_the_output_and_nowhere_else(rows: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uris, ids, notes = zip(*rows, strict=True)
        source = write_list(folder, {"uri": uris, "id": ids, "note": notes})
        output = Store.open(f"{folder}/deep/er/out")
        plan = freeze([source], output, 5, 0)
        outside = {name for name in tree(Path(folder)) if not name.startswith("deep/er/out")}
        assert outside == {"list.parquet", "deep", "deep/er"}
        assert sum(1 for _ in refs_of(output, plan)) + sum(plan.skipped.values()) == len(rows)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_list_is_planned_or_refused_in_words(data: st.DataObject) -> None:
    whole = io.BytesIO()
    pq.write_table(pa.table({"uri": [f"{n}.jpg" for n in range(40)], "id": list(map(str, range(40)))}), whole)
    kind = data.draw(st.sampled_from(["parquet", "csv"]))
    damaged = bytearray(whole.getvalue() if kind == "parquet" else b'uri,id\n"a.jpg",1\nb.jpg,"2"\n')
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[at] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"list.{kind}").write_bytes(damaged)
        output = Store.open(f"{folder}/out")
        told = refusal(lambda: freeze([InputSource(f"{folder}/list.{kind}", manifest=True)], output, 7, 0))
        if told is not None:
            assert f"list.{kind}" in told
            assert list(output.list()) == []


def test_a_job_over_hostile_names_writes_below_its_output_alone(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids come out as they went in, and no file is named after one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    good = [name for name in HOSTILE if name and "\0" not in name]
    columns = {"uri": [f"{photos}/{n % 3}.png" for n in range(len(good))], "id": good, "note": good}
    write_list(str(tmp_path), columns)
    before = tree(tmp_path)
    spec = {
        "kind": "segment",
        "name": "hostile",
        "input": {"uri": str(tmp_path / "list.parquet"), "id_column": "id", "columns": ["note"]},
        "model": {"weights": str(weights)},
        "output": {"uri": str(tmp_path / "deep" / "out")},
        "shards": {"images": 10},
    }
    shown = io.StringIO()
    run_job(load_text(yaml.safe_dump(spec), "spec"), local=True, console=Console(file=shown))
    written = {name for name in tree(tmp_path) - before if not name.startswith("deep/out")}
    assert written == {"deep"}
    rows = tables.open(str(tmp_path / "deep" / "out")).images().to_pylist()
    assert [row["image_id"] for row in rows] == good
    assert [row["note"] for row in rows] == good
    assert {row["status"] for row in rows} <= {"ok", "empty"}


def test_overlays_are_named_within_their_folder_and_names_are_shown_as_text(tmp_path: Path) -> None:
    nothing = Instances(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        classes=np.zeros(0, np.int64),
        masks=RleMasks(*(np.zeros(0, np.int32) for _ in range(4)), np.zeros(0, np.int64), []),
    )
    shown = io.StringIO()
    gallery = Gallery(tmp_path / "gallery", ("plant",), Console(file=shown, force_terminal=True))
    for name in HOSTILE:
        gallery.add(name, picture(0, 32, 32), nothing, each=False)
    assert len(os.listdir(tmp_path / "gallery")) == len(HOSTILE)
    assert tree(tmp_path) == {"gallery", *(f"gallery/{name}" for name in os.listdir(tmp_path / "gallery"))}
    assert "[bold red]markup[/]" in shown.getvalue()
    assert "\x1b]0" not in shown.getvalue()
