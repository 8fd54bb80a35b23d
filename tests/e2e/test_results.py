"""What becomes of results, as a user does it: export, filter, import, publish, compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.command import condinst
from tests.made import made_output


def run(*arguments: object, cwd: Path) -> tuple[int, str, str]:
    done = condinst(*arguments, cwd=cwd, env={"OMP_NUM_THREADS": "1"}, timeout=580)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    made_output(str(folder / "masks"), folder / "in")
    return folder


def test_an_export_and_its_way_back(work: Path) -> None:
    code, said, _ = run("export", "masks", "--format", "coco", "--class", "plant", cwd=work)
    assert code == 0
    assert "lost: `truncated`" in said
    found = json.loads((work / "made.coco.json").read_text())
    assert [category["name"] for category in found["categories"]] == ["plant"]
    code, _, _ = run("export", "masks", "--format", "labelstudio", "--to", "ls.json", cwd=work)
    assert code == 0
    code, said, _ = run("import", "ls.json", "truth.json", "--predictions", cwd=work)
    assert (code, said.split(" in ")[0]) == (0, "18 instances on 8 images")
    code, said, _ = run("confusion", "masks", "--truth", "truth.json", "--min-score", 0, cwd=work)
    assert (code, said.splitlines()[0]) == (0, "18 of 18 instances found as what they are, 18 found in all")
    code, _, wrong = run("export", "masks", "--format", "gpkg", cwd=work)
    assert code == 2
    assert "has a place on the map" in wrong


def test_filter_verify_diff_publish(work: Path) -> None:
    code, said, _ = run("filter", "masks", "sure", "--min-score", 0.5, cwd=work)
    assert code == 0
    kept = int(said.split(" of ")[0])
    assert run("verify", "sure", "--full", cwd=work)[0] == 0
    code, said, _ = run("diff", "masks", "sure", "--to", "d", cwd=work)
    assert code == 0
    assert said.startswith(f"0 gained, {18 - kept} lost, 0 other class, 0 other shape, {kept} same")
    assert {path.name for path in (work / "d").iterdir()} == {
        "diff.html", "diff.json", "differences.parquet",
    }  # fmt: skip
    for version in (0, 0):
        assert run("publish", "sure", "--delta", "lake", cwd=work)[0] == 0
        assert DeltaTable(str(work / "lake" / "instances")).version() == version
    assert DeltaTable(str(work / "lake" / "instances")).to_pyarrow_table().num_rows == kept
    code, _, wrong = run("filter", "masks", "sure", "--min-score", 0.4, cwd=work)
    assert code == 5
    assert "filters" in wrong
