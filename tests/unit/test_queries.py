"""The page of queries and the notebook run as they stand, and answer what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nbclient import NotebookClient
from pycocotools import mask as coco

from pipeline import tables
from pipeline.storage import Store
from pipeline.tables import Run
from tests.made import SIZE, edit, made_output, rewrite

ROOT = Path(__file__).parents[2]
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(), re.DOTALL)
NOTEBOOK = ROOT / "examples" / "queries.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `masks` and `masks-june`; the first image of `masks` lies on a map."""
    folder = tmp_path_factory.mktemp("runs")
    made_output(str(folder / "masks"), folder / "in", images=22)
    made_output(str(folder / "masks-june"), folder / "in-june", images=12)
    place = {"crs": "EPSG:32635", "transform": [0.5, 0.0, 5e5, 0.0, -0.5, 6.4e6]}
    rewrite(Store.open(str(folder / "masks")), "0000-000000", "images", edit(0, **place))
    return folder


def ask(number: int, folder: Path) -> list[dict[str, Any]]:
    query = re.sub(r"'(masks|masks-june|counts\.csv)", rf"'{folder}/\1", QUERIES[number - 1])
    answer = duckdb.sql(query)
    return [] if answer is None else answer.to_arrow_table().to_pylist()


def test_each_of_ten_queries_runs_and_has_an_answer(folder: Path) -> None:
    assert len(QUERIES) == 10
    for number in range(1, 10):
        assert ask(number, folder), QUERIES[number - 1]
    ask(10, folder)
    assert (folder / "counts.csv").read_text().startswith("image_id,category,instances,pixels\n")


def test_the_answers_are_those_of_the_rows(folder: Path) -> None:
    run, earlier = (Run(Store.open(str(folder / name))) for name in ("masks", "masks-june"))
    rows = run.instances().to_pylist()
    assert sum(row["instances"] for row in ask(1, folder)) == len(rows)
    largest = ask(3, folder)
    assert largest[0]["area"] == max(row["area"] for row in rows if not row["truncated"])
    (density,) = ask(4, folder)
    here = sum(row["image_id"] == "000.png" for row in rows)
    assert density["per_hectare"] == pytest.approx(here / (SIZE[0] * SIZE[1] * 0.25 / 10_000))
    changes = ask(5, folder)
    assert sum(row["change"] for row in changes) == len(rows) - earlier.instances().num_rows
    assert {row["image_id"] for row in changes if row["change"]} == {
        row["image_id"] for row in rows if row["image_id"] >= "012"
    }
    scores = np.array([row["score"] for row in rows])
    assert [row["instances"] for row in ask(6, folder)] == [
        int((scores >= t / 10).sum()) for t in range(1, 10)
    ]
    assert [row["status"] for row in ask(8, folder)] == ["corrupt"]


def test_the_notebook_asks_the_same_and_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    asked = [
        match[1].strip() for source in code if (match := re.match(r'ask\("""(.*)"""\)', source, re.DOTALL))
    ]
    assert asked == [query.strip() for query in QUERIES]
    assert all(not cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("CONDINST_MASKS", str(folder / "masks"))
    monkeypatch.setenv("CONDINST_EARLIER", str(folder / "masks-june"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    work = folder / "work"
    work.mkdir(exist_ok=True)
    patience = {"timeout": 600, "startup_timeout": 600, "iopub_timeout": 60}
    done = NotebookClient(notebook, resources={"metadata": {"path": str(work)}}, **patience).execute()
    last = done.cells[-1]["outputs"]
    assert any(output.get("data", {}).get("text/plain") == "True" for output in last)


def test_masks_come_in_every_form(folder: Path) -> None:
    run = tables.open(str(folder / "masks"))
    sure = pc.field("score") > 0.5
    masks = list(run.masks(filter=sure))
    rows = run.instances(filter=sure)
    assert [(mask.image_id, mask.instance_id) for mask in masks] == list(
        zip(rows["image_id"].to_pylist(), rows["instance_id"].to_pylist(), strict=True)
    )
    polygons = tables.pixel_polygons(rows)
    for mask, row, shape in zip(masks, rows.to_pylist(), polygons, strict=True):
        full = mask.full()
        assert full.shape == mask.image_size == SIZE
        assert full.sum() == mask.crop().sum() == mask.area == row["area"] == mask.polygon().area
        assert (mask.category, mask.score) == (row["category"], row["score"])
        assert (coco.decode(mask.rle()) == full).all()
        assert mask.rle() == tables.full_frame_rle(row, *SIZE)
        assert shape.equals(mask.polygon())
    boxes = tables.boxes(rows)
    assert boxes.shape == (len(masks), 4)
    assert boxes.dtype == np.float32
    assert tables.boxes(rows.slice(0, 0)).shape == (0, 4)
    assert isinstance(run.instances().to_pandas()["category"].dtype.categories[0], str)
    assert isinstance(rows, pa.Table)
