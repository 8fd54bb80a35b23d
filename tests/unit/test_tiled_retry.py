"""A retry of a tiled job: windows that ended badly are done again, and their rasters stitched anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from rich.console import Console

from jobs.check import load
from jobs.retry import retry_output
from jobs.retry_windows import RetryingWindows
from jobs.retrying import Wanted
from jobs.segment import run_job
from pipeline import tables
from pipeline.ledger import Ledger
from pipeline.retry import unfinished
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.again import outdated_shards
from pipeline.tiled.planning import open_windows
from pipeline.verify import Outcome, verify
from pipeline.worker import Worker
from tests.rasters import terrain, write_raster
from tests.tiny import tiny_weights

PROFILE = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}


def damage(path: Path) -> None:
    """Break the raster's last block."""
    with rasterio.open(path) as source:
        offset = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(bytes(data))


def mend(path: Path, side: int = 256, dtype: str = "uint8") -> None:
    write_raster(path, terrain(3, side, side, dtype, seed=1), **PROFILE)


@dataclass
class Place:
    """A complete job over two rasters, a shard each: a block of `a.tif` is broken, `b.tif` is whole."""

    folder: Path

    @property
    def broken(self) -> Path:
        return self.folder / "in" / "a.tif"

    def spec(self, output: str = "out") -> Path:
        document = {
            "kind": "segment",
            "name": "retried",
            "input": {"uri": str(self.folder / "in"), "include": "*.tif"},
            "model": {
                "weights": str(self.folder / "tiny-0.safetensors"),
                "score_threshold": 0.5,
                "max_instances": 10,
            },
            "output": {"uri": str(self.folder / output)},
            # A raster's norms are found once: with a block that could not be read then, they are other ones.
            "tiling": {"size": 128, "overlap": 32, "norms": "window"},
            "batch": {"images": 1},
            "shards": {"images": 9},
        }
        path = self.folder / f"{output}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def run(self, output: str = "out") -> tables.Run:
        run_job(load(self.spec(output)), local=True, console=Console(quiet=True))
        return tables.open(str(self.folder / output))

    @property
    def whole(self) -> tables.Run:
        return tables.open(str(self.folder / "whole"))

    def retry(self, *statuses: str, dry_run: bool = False) -> str:
        console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
        wanted = Wanted(frozenset(statuses), dry_run=dry_run, local=True)
        retry_output(str(self.folder / "out"), StoreOptions(), wanted, console)
        return console.export_text()

    @property
    def store(self) -> Store:
        return Store.open(str(self.folder / "out"))

    @property
    def revisions(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of the windows' shards, and of those that stitch."""
        windows, rasters = (
            dict(Ledger(place).revisions()) for place in (open_windows(self.store), self.store)
        )
        return windows, rasters


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """`whole` holds the job as it is when nothing is broken, `made` the one to be retried."""
    folder = tmp_path_factory.mktemp("retried")
    tiny_weights(folder)
    (folder / "in").mkdir()
    place = Place(folder)
    mend(place.broken)
    write_raster(folder / "in" / "b.tif", terrain(3, 256, 256, seed=2), **PROFILE)
    place.run("whole")
    damage(place.broken)
    place.run()
    shutil.copy2(place.broken, folder / "broken.tif")
    (folder / "out").rename(folder / "made")
    return place


@pytest.fixture
def place(made: Place) -> Place:
    shutil.rmtree(made.folder / "out", ignore_errors=True)
    shutil.copytree(made.folder / "made", made.folder / "out")
    shutil.copy2(made.folder / "broken.tif", made.broken)
    return made


def rows(run: tables.Run) -> tuple[Any, Any]:
    return tables.canonical(run.images()), tables.canonical(run.instances())


def test_mended_windows_are_done_again_and_their_rasters_stitched_anew(place: Place) -> None:
    before = {row["image_id"]: row for row in tables.open(place.store.uri).images().to_pylist()}
    assert "windows were not segmented, the first corrupt" in before["a.tif"]["error"]
    assert "nothing was changed" in place.retry("corrupt", dry_run=True)
    mend(place.broken)
    told = place.retry("corrupt")
    assert "windows in 1 shard ended corrupt" in told
    assert place.revisions == (
        {"0000-000000": 1, "0000-000001": 0}, {"0000-000000": 1, "0000-000001": 0}
    )  # fmt: skip
    after = tables.open(place.store.uri)
    assert rows(after) == rows(place.whole), "as a job that found the raster whole"
    images = {row["image_id"]: row for row in after.images().to_pylist()}
    assert images["b.tif"] == before["b.tif"], "attempt, times and all"
    assert images["a.tif"]["error"] is None
    assert images["a.tif"]["etag"] != before["a.tif"]["etag"], "as it was read"
    for output in (place.store, open_windows(place.store)):
        assert verify(output, full=True).outcome is Outcome.GOOD
        assert unfinished(output) == []
    summary = json.loads((place.folder / "out" / "summary.json").read_text())
    assert summary["windows"]["statuses"].get("corrupt") is None
    assert summary["instances"] == after.instances().num_rows
    assert "nothing to retry" in place.retry("corrupt")


def test_a_retry_that_was_cut_off_before_it_stitched_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    mend(place.broken)
    with monkeypatch.context() as patch:
        patch.setattr(RetryingWindows, "_stitch", die)
        with pytest.raises(Died):
            place.retry("corrupt")
    assert place.revisions[0]["0000-000000"] == 1
    assert place.revisions[1]["0000-000000"] == 0
    assert outdated_shards(place.store, tables.open(place.store.uri).plans) == ["0000-000000"]
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "process", die)  # no window is done again
        place.retry("corrupt")
    assert place.revisions[1]["0000-000000"] == 1
    assert rows(tables.open(place.store.uri)) == rows(place.whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"side": 320}, "320x320 pixels, were 256x256"),
        ({"dtype": "uint16"}, "its samples are uint16, were uint8"),
    ],
)
def test_a_raster_that_came_back_with_other_pixels_is_refused_in_words(
    place: Place, change: dict[str, Any], said: str
) -> None:
    before = tables.open(place.store.uri).instances()
    mend(place.broken, **change)
    place.retry("corrupt")
    assert place.revisions[0]["0000-000000"] == place.revisions[1]["0000-000000"] == 1
    assert tables.open(place.store.uri).instances() == before
    images = tables.open(place.store.uri).images().to_pylist()
    assert f"changed since the plan ({said})" in images[0]["error"]
    assert verify(place.store, full=True).outcome is Outcome.GOOD


def test_rasters_without_windows_are_told(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.tif").write_bytes(b"II*\0")
    place = Place(tmp_path)
    place.run()
    told = place.retry("corrupt")
    assert "1 raster ended so by the header" in told
    assert "nothing to retry" in told
