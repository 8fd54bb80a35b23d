"""Exports into S3, over HTTP: every format as on disk, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import boto3
import geopandas
import numpy as np
import pytest
from rich.console import Console

from jobs.errors import JobError
from jobs.export import FORMATS, Request, export_output
from jobs.scenes import render
from pipeline import remote
from pipeline.export.files import TargetError, place_of, whole_folder, whole_stream
from pipeline.storage import Store, StoreError, StoreOptions
from pipeline.tables import Run
from pipeline.tiled.settings import Tiling
from tests.rasters import write_raster
from tests.tiled import tiled_job

FILES = ("coco", "labelstudio", "geojson")
"""Formats whose files are the same bytes each time."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An orthomosaic that lies somewhere, so that every format can hold it."""
    folder, out = tmp_path_factory.mktemp("scene"), tmp_path_factory.mktemp("done") / "out"
    bands = np.maximum(render(7, 256, 256).image.transpose(2, 0, 1), 1)
    write_raster(folder / "ortho.tif", bands)
    job = tiled_job(folder, out, tiling=Tiling(size=256, overlap=96))
    job.do()
    return job.run


def export(run: Run, form: str, to: str | Path) -> str:
    console = Console(file=io.StringIO(), width=300)
    export_output(Request(run.store.uri, form, to), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def objects(uri: str) -> dict[str, bytes]:
    store = Store.open(uri)
    return {info.key: store.get(info.key) for info in store.list()}


def unfinished(uri: str) -> list[str]:
    """Uploads that were begun and neither ended nor given up."""
    found = boto3.client("s3").list_multipart_uploads(Bucket=uri.removeprefix("s3://").partition("/")[0])
    return [upload["Key"] for upload in found.get("Uploads", ())]


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_in_s3_holds_what_one_on_disk_holds(
    run: Run, s3_bucket: str, tmp_path: Path, form: str
) -> None:
    ending = FORMATS[form].ending
    here, there = tmp_path / "here" / f"x{ending}", f"{s3_bucket}/exports/x{ending}"
    here.parent.mkdir()
    said = export(run, form, here)
    assert export(run, form, there) == said.replace(str(here), there)
    single = ending.startswith(".")
    found = objects(f"{s3_bucket}/exports")
    files = {p.relative_to(here.parent).as_posix(): p for p in here.parent.rglob("*") if p.is_file()}
    assert sorted(found) == sorted(files)
    if form in FILES or not single:
        assert found == {name: path.read_bytes() for name, path in files.items()}
    else:
        (back := tmp_path / f"back{ending}").write_bytes(found[here.name])
        read = geopandas.read_parquet if form == "geoparquet" else geopandas.read_file
        assert read(back).equals(read(here))
        assert len(read(back)) > 5
    assert unfinished(s3_bucket) == []


@pytest.mark.parametrize("form", ["yolo-seg", "png-masks"])
def test_a_folder_that_holds_something_is_refused_as_on_disk(
    run: Run, s3_bucket: str, tmp_path: Path, form: str
) -> None:
    there, here = f"{s3_bucket}/taken", tmp_path / "taken"
    Store.open(there).put("notes/mine.txt", b"mine")
    here.mkdir()
    (here / "mine.txt").write_bytes(b"mine")
    for place in (there, here):
        with pytest.raises(JobError, match=f"{place} holds something already; name a new folder with --to"):
            export(run, form, place)
    assert objects(there) == {"notes/mine.txt": b"mine"}


def test_a_file_in_s3_is_replaced_as_on_disk(run: Run, s3_bucket: str) -> None:
    Store.open(s3_bucket).put("x.json", b"before")
    export(run, "coco", f"{s3_bucket}/x.json")
    assert objects(s3_bucket)["x.json"].startswith(b'{"info"')


def test_a_large_file_goes_up_in_parts_while_it_is_written(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PART", 5 << 20)  # the least that S3 takes
    data = np.random.default_rng(0).bytes(12 << 20)
    with whole_stream(place_of(f"{s3_bucket}/large.json", StoreOptions())) as file:
        for at in range(0, len(data), 700_001):
            file.write(data[at : at + 700_001])
    store = Store.open(s3_bucket)
    assert store.get("large.json") == data
    assert store.head("large.json").etag.endswith("-3")  # type: ignore[union-attr]  # of three parts


def test_what_breaks_off_leaves_nothing(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PART", 5 << 20)

    def stream() -> None:
        with whole_stream(place_of(f"{s3_bucket}/x.json", StoreOptions())) as file:
            file.write(bytes(12 << 20))
            raise ZeroDivisionError

    def folder() -> None:
        with whole_folder(place_of(f"{s3_bucket}/x", StoreOptions())) as folder:
            (folder / "a.txt").write_text("a")
            raise ZeroDivisionError

    for broken in (stream, folder):
        with pytest.raises(ZeroDivisionError):
            broken()
    assert objects(s3_bucket) == {}
    assert unfinished(s3_bucket) == []


def test_a_store_that_refuses_is_told_and_ends_the_export(run: Run, s3_bucket: str) -> None:
    for form in ("coco", "geojson", "yolo-seg"):
        place = f"s3://no-such-bucket-here/x{FORMATS[form].ending}"
        with pytest.raises(StoreError, match="no-such-bucket-here"):
            export(run, form, place)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/folder/"])
def test_a_uri_that_names_no_file_is_told(run: Run, uri: str) -> None:
    with pytest.raises(TargetError, match="names no file"), whole_stream(place_of(uri, StoreOptions())):
        pass
