"""What a tiled job says of itself where it may do other than was meant."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from jobs.check import load
from jobs.preview import preview
from jobs.segment import run_job
from jobs.tiling_notes import tiling_notes
from jobs.try_job import try_job
from pipeline.manifest import Plan
from pipeline.tiled.settings import Tiling
from tests.rasters import terrain, write_raster
from tests.tiny import tiny_weights
from tests.unit.test_tiled_retry import Place


def plan(rasters: int, windows: int) -> Plan:
    of_windows = Plan(0, "w", (), windows, 9, 1, 0)
    return replace(of_windows, id="r", images=rasters, windows=of_windows)


def test_a_job_that_joins_what_was_asked_for_says_nothing() -> None:
    tiling, cut, whole = Tiling(), plan(2, 9), plan(2, 2)
    assert tiling_notes(None, [cut], grown=False) == []
    assert tiling_notes(tiling, [cut, cut], grown=True) == []
    assert tiling_notes(replace(tiling, overlap=0), [whole], grown=False) == [], "a window each"
    across = replace(tiling, across_rasters=True)
    assert tiling_notes(across, [cut], grown=False) == tiling_notes(across, [cut, cut], grown=False) == []
    assert ["overlap" in note for note in tiling_notes(replace(tiling, overlap=0), [cut], grown=False)] == [
        True
    ]
    assert ["earlier" in note for note in tiling_notes(across, [cut, cut], grown=True)] == [True]


def test_plan_run_and_try_say_which_rasters_cannot_be_segmented_and_why(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "one.tif", terrain(1, 64, 64))
    spec = load(Place(tmp_path).spec(), ["tiling.bands=[4, 3, 2]", "tiling.size=64", "tiling.overlap=0"])

    def said(step: Callable[[Console], object]) -> str:
        console = Console(record=True, width=400, file=io.StringIO())
        step(console)
        return console.export_text()

    why = (
        "no raster can be segmented, such as one.tif: unsupported, `bands` asks for band 4; the raster has 1"
    )
    assert why in said(lambda console: preview(spec, console))
    assert why in said(lambda console: try_job(spec, 3, tmp_path / "drawn", console))
    write_raster(tmp_path / "in" / "two.tif", terrain(4, 64, 64))
    assert why.replace("no raster can", "1 of 2 rasters cannot") in said(
        lambda console: run_job(spec, local=True, console=console)
    )


def test_plan_and_the_run_that_plans_say_so_once(tmp_path: Path) -> None:
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 64, 128))
    spec = load(
        Place(tmp_path).spec(),
        ["input.mode=new", "tiling.size=64", "tiling.overlap=0", "tiling.deduplicate=across_rasters"],
    )

    def said(planned: bool = False) -> list[str]:
        console = Console(record=True, width=400, file=open("/dev/null", "w"))  # noqa: SIM115
        if planned:
            preview(spec, console=console)
        else:
            run_job(spec, local=True, console=console)
        text = console.export_text()
        return [word for word in ("overlap is 0", "of earlier runs") if word in text]

    assert said(planned=True) == ["overlap is 0"]
    assert said() == ["overlap is 0"]
    assert said() == []
    write_raster(tmp_path / "in" / "b.tif", terrain(3, 64, 128, seed=3))
    assert said(planned=True) == ["overlap is 0", "of earlier runs"]
    assert said() == ["overlap is 0", "of earlier runs"]
    assert said() == []
