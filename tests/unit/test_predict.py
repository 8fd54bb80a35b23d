"""`condinst predict`: what it finds in files, folders and buckets, as rows."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from condinst import load
from jobs.errors import JobError
from jobs.predict import TABLE, predict_files
from pipeline.rows import visible
from pipeline.schemas import INSTANCES_SCHEMA
from pipeline.storage import Store
from pipeline.tables import crop
from tests.tiny import encoded, picture, pictures, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_weights(tmp_path_factory.mktemp("weights")))


def rows(folder: Path) -> list[dict]:
    table = pq.read_table(folder / TABLE)
    assert table.schema.remove_metadata() == INSTANCES_SCHEMA
    return table.to_pylist()


def test_every_instance_of_a_folder_is_a_row(weights: str, tmp_path: Path) -> None:
    folder, console = pictures(tmp_path / "in", 4) / "a", Console(file=io.StringIO(), width=200)
    gallery = predict_files([str(folder)], weights, tmp_path / "out", console=console)
    assert f"instances in {tmp_path}/out/instances.parquet" in console.file.getvalue()  # type: ignore[attr-defined]
    found = rows(tmp_path / "out")
    assert len(found) == gallery.instances > 12
    assert {Path(row["image_id"]).parent for row in found} == {folder}
    image = picture(1, 64, 64)
    mine = [row for row in found if row["image_id"] == str(folder / "001.png")]
    wanted = visible(load(weights).predict([image])[0])
    assert [row["score"] for row in mine] == pytest.approx(wanted.scores.tolist(), abs=1e-5)
    assert [row["area"] for row in mine] == wanted.masks.area.tolist()
    assert all(crop(row).sum() == row["area"] for row in mine)


def test_an_image_is_read_where_it_lies(weights: str, tmp_path: Path, s3_bucket: str) -> None:
    data = encoded(picture(1))
    Store.open(s3_bucket).put("in/a.png", data)
    (tmp_path / "a.png").write_bytes(data)
    remote, local = f"{s3_bucket}/in/a.png", str(tmp_path / "a.png")
    quiet = Console(quiet=True)
    assert predict_files([remote, local, local], weights, tmp_path / "out", console=quiet).statuses == {
        "ok": 2
    }
    found = rows(tmp_path / "out")
    assert {row["image_id"] for row in found} == {remote, local}
    of = {name: [row["mask"] for row in found if row["image_id"] == name] for name in (remote, local)}
    assert of[remote] == of[local]
    for nothing in (f"{s3_bucket}/in/b.png", f"{s3_bucket}/in/", f"{s3_bucket}/in", s3_bucket):
        with pytest.raises(JobError, match=f"^{nothing}: no such image"):
            predict_files([nothing], weights, tmp_path / "none", console=quiet)
    assert not (tmp_path / "none").exists()


def test_nothing_found_is_a_table_without_rows(weights: str, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(encoded(picture(0), "JPEG")[:900])
    predict_files([str(tmp_path / "cut.jpg")], weights, tmp_path / "out", console=Console(quiet=True))
    assert rows(tmp_path / "out") == []
