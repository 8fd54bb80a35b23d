"""What of a folder becomes an input: globs, folder markers, the job's own output."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.globs import matcher
from pipeline.inputs import Inputs
from pipeline.manifest import InputError, InputSource, freeze, read_shard, scan
from pipeline.records import InputRejected, Status
from pipeline.storage import Store, StoreError

PATHS = st.lists(st.text(alphabet="ab.*[", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)
PARTS = st.one_of(st.just("**"), st.text(alphabet="ab.*?", min_size=1, max_size=4))
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def taken(pattern: str, path: str) -> bool:
    return matcher([pattern], [])(path) is None


def oracle(pattern: str, path: str) -> bool:
    """The rules once more, by trying every way to match."""
    if "/" not in pattern:
        return one(pattern, path.rpartition("/")[2])
    return parts(tuple(pattern.split("/")), tuple(path.split("/")))


@cache
def parts(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    if pattern == ("**",):
        return bool(path)
    if pattern[0] == "**":
        return any(parts(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and one(pattern[0], path[0]) and parts(pattern[1:], path[1:])


@cache
def one(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return one(pattern[1:], text) or (bool(text) and one(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and one(pattern[1:], text[1:])


@given(PATTERNS, PATHS)
def test_globs_match_what_their_rules_say(pattern: str, path: str) -> None:
    assert taken(pattern, path) == oracle(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.jpg", ["a.jpg", "x/y/.jpg", "x/new\nline.jpg"], ["a.JPG", "a.jpg/x", "a.jpg "]),
        ("raw/*.jpg", ["raw/a.jpg"], ["a.jpg", "raw/x/a.jpg", "x/raw/a.jpg"]),
        ("/a.jpg", ["a.jpg"], ["x/a.jpg"]),
        ("raw/**/*.jpg", ["raw/a.jpg", "raw/x/y/a.jpg"], ["a.jpg", "x/raw/a.jpg"]),
        ("raw/", ["raw/a", "raw/x/a"], ["raw", "x/raw/a"]),
        ("raw/**", ["raw/a", "raw/x/a"], ["raw"]),
        ("**/b/*", ["b/a", "x/y/b/a"], ["b", "b/c/a"]),
        ("IMG_[0-9][0-9].*", ["IMG_07.png", "x/IMG_99."], ["IMG_7.png", "IMG_ab.png"]),
        ("[!a-c]x", ["dx", "-x"], ["ax", "x", "d/x"]),
        ("x/[!a]b", ["x/cb"], ["x//b", "x/ab"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[z-a]", [], ["z", "m"]),
        ("[a", ["[a"], ["a"]),
        ("[!]", ["[!]"], ["a", "!"]),
        ("a+(b)|^$.\\", ["a+(b)|^$.\\"], ["aab", "a"]),
        ("**", ["a", "x/y"], []),
    ],
)
def test_globs_by_example(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not taken(pattern, path)] == []
    assert [path for path in no if taken(pattern, path)] == []


def test_exclude_outweighs_include_and_says_so() -> None:
    look = matcher(["*.jpg", "*.png"], ["tmp/"])
    assert look("a.jpg") is None
    assert look("a.txt") == "not_included"
    assert look("tmp/a.jpg") == "excluded"
    assert matcher([], [])("anything") is None


@given(st.text(max_size=12), st.text(max_size=12))
def test_no_pattern_ends_in_an_accident(pattern: str, path: str) -> None:
    if pattern.strip("/"):
        assert taken(pattern, path) in (True, False)
    else:
        with pytest.raises(InputError, match="is not a pattern"):
            taken(pattern, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name in ("b/2.jpg", "b-c.jpg", "b.jpg", "notes.txt", "raw/1.jpg", "empty_$folder$"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name.endswith("$") else b"123")
    return root


def ids(source: InputSource, tmp_path: Path) -> list[str]:
    output = Store.open(str(tmp_path / "out"))
    plan = freeze([source], output, 100, 0)
    return [ref.image_id for ref in read_shard(output, plan, 0)]


def test_a_folder_is_listed_in_byte_order_with_sizes_and_etags(folder: Path, tmp_path: Path) -> None:
    output = Store.open(str(tmp_path / "out"))
    plan = freeze([InputSource(str(folder))], output, 100, 0)
    refs = read_shard(output, plan, 0)
    assert [ref.image_id for ref in refs] == ["b-c.jpg", "b.jpg", "b/2.jpg", "notes.txt", "raw/1.jpg"]
    assert [ref.uri for ref in refs] == [f"{folder}/{ref.image_id}" for ref in refs]
    assert {ref.bytes for ref in refs} == {3}
    assert all(ref.etag for ref in refs)
    assert plan.skipped == {"folder_marker": 1}
    assert plan.bytes == 15


def test_what_is_left_out_is_counted(folder: Path) -> None:
    found = scan([InputSource(str(folder), include=("*.jpg",), exclude=("raw/",))])
    assert (found.images, found.bytes) == (3, 9)
    assert found.skipped == {"folder_marker": 1, "not_included": 1, "excluded": 1}


def test_a_name_goes_before_the_ids(folder: Path, tmp_path: Path) -> None:
    assert ids(InputSource(str(folder), include=("b/*",), name="north"), tmp_path) == ["north/b/2.jpg"]


def test_a_uri_may_name_one_file(folder: Path, tmp_path: Path) -> None:
    assert ids(InputSource(f"{folder}/raw/1.jpg"), tmp_path) == ["1.jpg"]


def test_the_output_inside_the_input_is_no_input(folder: Path) -> None:
    output = Store.open(f"{folder}/masks")
    first = freeze([InputSource(str(folder))], output, 2, 0)
    second = freeze([InputSource(str(folder))], output, 2, 1)
    assert second.images == first.images == 5
    assert second.skipped["own_output"] >= 2
    with pytest.raises(InputError, match="both an input and the output"):
        freeze([InputSource(str(folder))], Store.open(str(folder)), 2, 0)


def test_nothing_found_says_what_was_looked_for_and_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 6 objects .*'b-c.jpg'.*include \*.tif"):
        scan([InputSource(str(folder), include=("*.tif",))])
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match=r"nothing lies at .*void"):
        scan([InputSource(str(tmp_path / "void"))])
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        scan([InputSource(str(folder)), InputSource(str(tmp_path / "nowhere"), name="n")])


def test_names_the_client_cannot_ask_for_stay_inputs_with_a_problem(folder: Path, tmp_path: Path) -> None:
    (folder / "raw" / "new\nline.jpg").write_bytes(b"1")
    output = Store.open(str(tmp_path / "out"))
    refs = read_shard(output, freeze([InputSource(str(folder), include=("raw/",))], output, 10, 0), 0)
    assert [(ref.image_id, ref.problem is None) for ref in refs] == [
        ("raw/1.jpg", True),
        ("raw/new\nline.jpg", False),
    ]
    assert "control character" in str(refs[1].problem)


def test_ten_thousand_empty_folders_hold_no_input_and_cost_little(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for number in range(10_000):
        os.makedirs(f"{root}/{number % 100:02d}/{number}")
    (root / "42" / "only.jpg").write_bytes(b"1")
    output = Store.open(str(tmp_path / "out"))
    plan = freeze([InputSource(str(root))], output, 100, 0)
    assert (plan.images, plan.skipped) == (1, {})
    assert len(list(output.list())) == 2


def test_folders_may_be_nested_deeper_than_pythons_stack(tmp_path: Path) -> None:
    folders = [f"{tmp_path}/images" + "/d" * depth for depth in range(1500)]
    for path in folders:
        os.mkdir(path)
    Path(folders[-1], "x.jpg").write_bytes(b"1")
    assert ids(InputSource(folders[0]), tmp_path) == ["d/" * 1499 + "x.jpg"]
    os.remove(f"{folders[-1]}/x.jpg")
    for path in reversed(folders):  # pytest clears up by recursion
        os.rmdir(path)


def test_folders_nested_deeper_than_a_path_is_long_are_told(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    with pytest.raises(StoreError, match="nested deeper"):
        scan([InputSource(str(tmp_path))])
    shutil.rmtree(tmp_path / ("d" * 250))


def test_links_are_followed_into_files_and_folders_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    """As docs/inputs.md says: what a link leads to is read; a link to itself or to nothing is missing."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.jpg").write_bytes(b"far")
    links = {
        "file.jpg": elsewhere / "1.jpg",
        "folder": elsewhere,
        "up": folder,
        "self.jpg": "self.jpg",
        "void": "no",
    }
    for name, target in links.items():
        (folder / "raw" / name).symlink_to(target)
    source, output = InputSource(str(folder), include=("raw/",)), Store.open(str(tmp_path / "out"))
    refs = {ref.image_id: ref for ref in read_shard(output, freeze([source], output, 100, 0), 0)}
    assert set(refs) == {f"raw/{name}" for name in ("1.jpg", "file.jpg", "folder/1.jpg", "self.jpg", "void")}
    inputs = Inputs([source])
    for name in ("raw/file.jpg", "raw/folder/1.jpg"):
        assert inputs.fetch(refs.pop(name), 100)[0] == b"far"
    assert inputs.fetch(refs.pop("raw/1.jpg"), 100)[0] == b"123"
    for ref in refs.values():
        with pytest.raises(InputRejected) as caught:
            inputs.fetch(ref, 100)
        assert caught.value.status is Status.MISSING


@pytest.mark.parametrize(
    "name", ["a b.jpg", "100%.jpg", "%2e%2e.jpg", "a#b?c.jpg", "é日😀.jpg", "a\\b.jpg", "'\";.jpg"]
)
def test_odd_names_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (root / name).write_bytes(b"1")
    source, output = InputSource(str(root)), Store.open(str(tmp_path / "out"))
    (ref,) = read_shard(output, freeze([source], output, 100, 0), 0)
    assert (ref.image_id, ref.problem) == (name, None)
    assert Inputs([source]).fetch(ref, 100)[0] == b"1"
