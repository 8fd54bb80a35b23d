"""Imports run one way, jobs -> pipeline -> condinst, and each room keeps to its own libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "condinst": {"pipeline", "jobs", "tests", "ray", "obstore", "boto3", "yaml", "typer", "rich", "pyarrow"},
    "pipeline": {"jobs", "tests", "yaml", "typer", "rich"},
    "jobs": {"tests", "obstore", "boto3"},
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name.split(".")[0]) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from ((node.lineno, str(name).split(".")[0]) for name in names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for path in files
        for line, package in imports(path)
        if package in FORBIDDEN[room]
    ]
    assert wrong == []


def test_nothing_is_unpickled() -> None:
    loaders = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {package}"
        for room in FORBIDDEN
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, package in imports(path)
        if package in loaders
    ]
    assert wrong == []


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from jobs.spec import SegmentSpec\n    import yaml as y\n")
    assert list(imports(file)) == [(2, "jobs"), (3, "yaml")]
