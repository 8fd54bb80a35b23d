"""`extends`: what comes from where, and that every error names the file that is wrong."""

# ruff: noqa: E501 (an error and its expectation belong on one line)

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.check import load, load_job
from jobs.errors import SpecError
from jobs.spec import SegmentSpec

ROOT = Path(__file__).parents[2]
OWN = """\
extends: base/a.yaml
kind: segment
name: own
input: {uri: photos, include: ["*.png"]}
output: {uri: out}
workers: {cpus: 3}
"""
A = """\
extends: b.yaml
name: a
input: {uri: elsewhere, exclude: ["x*"]}
workers: {gpus: 1, cpus: 2}
"""
B = """\
max_failed: 1%
workers: {count: 7, cpus: 1}
env: {FROM: b}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "base" / "a.yaml").write_text(A)
    (tmp_path / "base" / "b.yaml").write_text(B)
    return tmp_path / "own.yaml"


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(path, overrides)
    return [line.replace(f"{path.parent}/", "") for line in str(caught.value).splitlines()]


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_the_nearest_spec_rules_and_lists_are_replaced(own: Path) -> None:
    spec = load(own)
    assert (spec.name, spec.max_failed, spec.env) == ("own", "1%", {"FROM": "b"})
    assert (spec.workers.count, spec.workers.gpus, spec.workers.cpus) == (7, 1, 3)
    assert (spec.input[0].uri, spec.input[0].include, spec.input[0].exclude) == (
        "photos",
        ("*.png",),
        ("x*",),
    )


def test_null_takes_back_what_a_base_says(own: Path) -> None:
    change(own, "name: own", "name: own\nmax_failed: null")
    assert load(own).max_failed is None


def test_overrides_come_last(own: Path) -> None:
    assert load(own, ["workers.count=9", "max_failed=5"]).workers.count == 9


def test_the_folder_where_the_command_runs_does_not_matter(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent / "base")
    assert load(Path("../own.yaml")).name == "own"


def test_an_error_names_the_base_that_holds_it(own: Path) -> None:
    change(own.parent / "base" / "b.yaml", "max_failed: 1%", "max_faild: 1%")
    change(own.parent / "base" / "a.yaml", "gpus: 1", "gpus: 99")
    change(own, "cpus: 3", "cpus: three")
    assert problems(own) == [
        "base/a.yaml:4:17: workers.gpus: 99 was given; expected 1 or less: a worker's model is on "
        "one GPU; for more GPUs give more workers",
        "base/b.yaml:1:1: max_faild: unknown key; did you mean max_failed?",
        "own.yaml:6:17: workers.cpus: the text 'three' was given; expected a whole number from 1 to 256",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("base/b.yaml", "max_failed", "extends: a.yaml\nmax_failed",
         "base/b.yaml:1:10: extends: goes round in a circle: own.yaml extends base/a.yaml extends base/b.yaml extends base/a.yaml"),
        ("own.yaml", "base/a.yaml", "own.yaml",
         "own.yaml:1:10: extends: goes round in a circle: own.yaml extends own.yaml"),
        ("base/a.yaml", "b.yaml", "../base/./../own.yaml",
         "base/a.yaml:1:10: extends: goes round in a circle: own.yaml extends base/a.yaml extends own.yaml"),
        ("own.yaml", "base/a.yaml", "base/aa.yaml",
         "own.yaml:1:10: extends: there is no file base/aa.yaml; did you mean base/a.yaml?"),
        ("own.yaml", "base/a.yaml", "https://host/zzzz.yaml",
         "own.yaml:1:10: extends: there is no file https:/host/zzzz.yaml; bases are looked for from this file's folder"),
        ("own.yaml", "base/a.yaml", "/etc/passwd",
         "own.yaml:1:10: extends: '/etc/passwd': expected a file that ends in .yaml or .yml"),
        ("own.yaml", "base/a.yaml", "[base/a.yaml]",
         "own.yaml:1:10: extends: a list of 1 was given; expected text"),
        ("base/b.yaml", "{count: 7", "{[count]: 7", "base/b.yaml:2:11: workers: a key must be plain text"),
        ("base/b.yaml", B, "- a", "base/b.yaml: the document is a list of 1; a spec is a mapping of keys to values"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be(own: Path, file: str, old: str, new: str, told: str) -> None:
    change(own.parent / file, old, new)
    assert told in problems(own)


def test_a_link_does_not_hide_a_circle(own: Path) -> None:
    (own.parent / "base" / "link.yaml").symlink_to(own)
    change(own.parent / "base" / "b.yaml", "max_failed", "extends: link.yaml\nmax_failed")
    assert "goes round in a circle" in problems(own)[0]


def test_extends_is_for_files_alone(own: Path) -> None:
    assert problems(own, "extends=other.yaml") == ["--set extends: is read from the file alone"]


def test_a_long_chain_is_refused(own: Path) -> None:
    for number in range(20):
        (own.parent / f"c{number}.yaml").write_text(f"extends: c{number + 1}.yaml\n")
    change(own, "base/a.yaml", "c0.yaml")
    assert "more than 10 specs" in problems(own)[0]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples" / "base").glob("*.yaml")), ids=lambda path: path.name
)
def test_each_base_in_the_examples_is_one(path: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(OWN.replace("base/a.yaml", str(path)).replace("cpus: 3", "memory: 8Gi"))
    loaded = load_job(spec)
    assert isinstance(loaded, SegmentSpec)
    assert loaded.max_failed == "2%"
