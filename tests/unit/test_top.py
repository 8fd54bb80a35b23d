"""The live page says what the output says: rates, stages, stragglers, errors."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.errors import JobError
from jobs.top import Seen, page, show_top
from pipeline.growing import known_rows
from pipeline.ledger import Ledger
from pipeline.manifest import InputSource, extend, load_plans
from pipeline.progress import progress_key
from pipeline.signs import ShardSign, WorkerSign
from pipeline.storage import Store, StoreOptions
from pipeline.tiled.settings import Tiling
from tests.made import made_job, plan_of, work
from tests.rasters import terrain, write_raster
from tests.tiled import local, tiled_job
from tests.tiny import tiny_weights


def shown(seen: Seen) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(page(seen))
    return console.export_text()


def say(
    store: Store, worker: str, at: float, images: int, shard: str | None = None, since: float = 0
) -> None:
    in_work = {"since": since, "images": 4, "done": 1, "step": "infer", "step_since": at, "decoding": 2}
    said = {"worker": worker, "time": at, "started": at - 1000, "images": images}
    store.put(
        progress_key(worker), json.dumps({**said, "shards": {shard: in_work} if shard else {}}).encode()
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_job(str(tmp_path / "out"), tmp_path / "in", 40)


def test_counts_and_errors_are_those_of_the_records(store: Store) -> None:
    seen = Seen.of(store)
    seen.look()
    assert "made, 0 of 10 shards" in shown(seen)
    assert "none" in shown(seen)
    for number, shard in enumerate(plan_of(store).shard_ids()):
        work(store, shard)
        seen.look()
        records = list(Ledger(store).records())
        assert seen.tally.shards == number + 1
        assert seen.tally.instances == sum(record.instances for record in records)
    text = shown(seen)
    assert "40 of 40, 100.0%" in text
    bad = {s: n for s, n in seen.tally.statuses.items() if s not in ("ok", "empty", "nodata") and n}
    assert all(f"{number} {status}" in text for status, number in bad.items())
    assert bad == {"corrupt": 8}
    assert any("corrupt, cut off" in line for line in seen.errors)


def test_a_workers_rate_is_that_of_the_last_minute(store: Store) -> None:
    seen, now = Seen.of(store), time.time()
    for step in range(12):
        say(store, "host-1-a", now - 110 + 10 * step, 1000 + (0 if step < 6 else 50 * (step - 5)))
        seen.look()
    (sign,) = seen.signs
    assert seen.rate(sign) == pytest.approx(5.0, rel=0.2), "of late, not since its start"
    say(store, "host-2-b", now - 500, 10)
    seen.look()
    assert "silent for 8 min" in shown(seen)
    assert [sign.worker for sign in seen.alive] == ["host-1-a"]


def test_stragglers_and_what_stands_still_are_marked(store: Store) -> None:
    seen, now = Seen.of(store), time.time()
    shards = plan_of(store).shard_ids()
    for shard in shards[:3]:
        record = work(store, shard)
        assert record is not None
    seen.look()
    seen.latest = type(seen.latest)(
        [replace(c, work=replace(c.work, first=100.0, last=110.0)) for c in seen.latest], 200
    )
    assert seen.usual == 10.0
    say(store, "w-1-a", now, 10, shards[4], since=now - 15)
    say(store, "w-2-b", now, 10, shards[5], since=now - 45)
    seen.look()
    lines = {line.split()[0]: line for line in shown(seen).splitlines() if line.startswith("w-")}
    assert "straggler" not in lines["w-1-a"]
    assert "straggler" in lines["w-2-b"]
    assert "infer, 2 images decoding" in lines["w-2-b"]
    sign = ShardSign(shards[6], "w-3-c", now - 500, 4, 1, "decode", now - 400, 0)
    seen.signs = [WorkerSign("w-3-c", now, now - 900, 5, (sign,))]
    assert "stands still" in shown(seen)


def test_without_a_terminal_it_looks_once(store: Store) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_top(store.uri, StoreOptions(), every=1, once=False, console=console)
    assert "0 of 10 shards" in console.export_text()
    with pytest.raises(JobError, match="holds no job"):
        show_top(str(Path(store.uri).parent / "nowhere"), StoreOptions(), every=1, once=True, console=console)


def test_a_generation_that_comes_while_it_looks_is_followed(store: Store, tmp_path: Path) -> None:
    seen = Seen.of(store)
    for shard in plan_of(store).shard_ids():
        work(store, shard)
    seen.look()
    assert seen.complete
    for number in range(40, 47):
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(b"new")
    plans = load_plans(store)
    source = InputSource(str(tmp_path / "in"), new=True)
    grown, _ = extend([source], store, plans, known_rows(Ledger(store), plans))
    assert grown is not None
    seen.look()
    assert (seen.shards, seen.images, seen.complete) == (12, 47, False)
    assert "10 of 12 shards" in shown(seen)
    assert "40 of 47, 85.1%" in shown(seen)


def test_of_a_tiled_job_it_goes_on_from_windows_to_rasters(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_raster(tmp_path / "in" / "a.tif", terrain(3, 96, 160))
    job = tiled_job(tmp_path / "in", tmp_path / "out", tiny_weights(tmp_path), 2, Tiling(size=96, overlap=32))
    assert job.plan.windows is not None
    seen = Seen.of(job.store)
    seen.look()
    windows = job.plan.windows
    assert f"windows, 0 of {windows.shards} shard " in shown(seen)
    local(job.settings.of_windows(), windows.shard_ids())
    seen.look()
    assert seen.tally.images == windows.images
    assert not seen.complete, "they are to be stitched yet"
    seen.look()
    assert "windows" not in shown(seen)
    assert "0 of 1 shard " in shown(seen)
    local(job.settings.of_stitching(), job.plan.shard_ids())
    seen.look()
    assert (seen.complete, seen.tally.images) == (True, 1)
