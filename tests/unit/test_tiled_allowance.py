"""`max_failed` in a tiled job: it holds for windows too, while they are done and at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from jobs.allowance import Allowance
from jobs.check import load
from jobs.errors import TooManyFailed
from jobs.segment import run_job
from jobs.tally import Tally
from pipeline.ledger import Ledger
from pipeline.tiled.planning import open_windows
from tests.rasters import terrain, write_raster
from tests.tiny import tiny_weights
from tests.unit.test_tiled_retry import PROFILE, Place, damage, mend


@pytest.mark.parametrize(
    ("stated", "most"), [("20%", 800), ("0%", 0), (2, 800), (0, 0), (10, 4000), (20, 8000)]
)
def test_a_window_counts_as_its_share_of_all(stated: int | str, most: int) -> None:
    allowance = Allowance(stated, 10).of_windows(4000)
    assert not allowance.exceeded(Tally.of([]))
    assert allowance.most == most
    assert Allowance(None, 10).of_windows(4000).most is None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two rasters of 9 windows each; 4 of the first need a block that is broken."""
    tiny_weights(tmp_path)
    (tmp_path / "in").mkdir()
    place = Place(tmp_path)
    mend(place.broken)
    damage(place.broken)
    write_raster(tmp_path / "in" / "b.tif", terrain(3, 256, 256, seed=2), **PROFILE)
    return place


def run(place: Place, max_failed: object) -> None:
    spec = load(place.spec(), [f"max_failed={max_failed}", "shards.images=3"])
    run_job(spec, local=True, console=Console(quiet=True))


def test_windows_that_fail_stop_the_job_and_a_higher_value_goes_on(place: Place) -> None:
    windows = Ledger(open_windows(place.store))
    with pytest.raises(TooManyFailed, match=r"planned windows ended badly \(\d corrupt\).* is 10% of the in"):
        run(place, "10%")
    done = len(windows.revisions())
    assert 0 < done < 6
    with pytest.raises(TooManyFailed, match="here 1 window; nothing was run"):
        run(place, "10%")
    assert len(windows.revisions()) == done
    run(place, 1)
    assert len(windows.revisions()) == 6
    with pytest.raises(
        TooManyFailed, match=r"4 of 18 planned windows .* 0 of the inputs, .* its row all the same"
    ):
        run(place, 0)


def test_an_input_that_is_gone_stops_the_job_before_all_its_windows_were_tried(place: Place) -> None:
    with pytest.raises(TooManyFailed):
        run(place, "0%")
    (place.folder / "in" / "b.tif").unlink()
    with pytest.raises(TooManyFailed, match="missing"):
        run(place, "30%")
    assert len(Ledger(open_windows(place.store)).revisions()) < 6
