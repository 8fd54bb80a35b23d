"""The viewer, the report and the export of a generated run of a million images and twenty million instances.

`python -m tests.bench.looking [FOLDER]` runs it alone (a run that is in FOLDER is used again); SHARDS=50
makes it smaller. Told are seconds from the start of the viewer's process to its first page (the page's own
files, what it says of the run, the grid's first images), to a filled index, of pages of it, of the report and
of the export to COCO, and the most memory that each took, in processes of their own. `load` tells of other
work beside.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from condinst.instances import Instances
from pipeline.commit import Commit, TableFile, Work, commit_key, public_key
from pipeline.ledger import Ledger
from pipeline.plan import Plan, PlanFile, plan_bytes, plan_key
from pipeline.records import ImageRef, Status
from pipeline.rows import Outcome, count_values, images_table, instances_table, to_parquet
from pipeline.schemas import TABLES, file_metadata
from pipeline.storage import Store
from tests.bench import harness
from tests.rasters import blobs

IMAGES, EACH, SIDE = 1000, 20, 1536
NAMES = ("maize", "weed", "stone", "mouse")
STARTS = 5
"""Times that the viewer is started for its first page; the middle one is told, and the slowest."""
PARTS = ("", *(f"static/{name}" for name in ("viewer.css", "viewer.js", "grid.js", "looking.js", "api.js")))
"""What a browser fetches of the page itself."""
PAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "last": {"page": 16_000},
    "by name": {"sort": "name", "falling": "true"},
    "class and score": {"category": "weed", "score_min": 0.9, "sort": "count", "falling": "true"},
    "status and text": {"status": "corrupt", "text": "77"},
}


def generate(folder: Path, shards: int) -> str:
    """A complete run; its shards differ in their ids, scores, classes, and in which masks lie where."""
    store = Store.open(str(folder / f"run-{shards}"))
    if (folder / f"run-{shards}" / "summary.json").exists():
        return store.uri
    Ledger(store).claim({"name": "bench", "fingerprint": "f" * 64, "model_digest": "m" * 64, "settings": {}})
    file = PlanFile("_plans/0/manifest-00000.parquet", shards * IMAGES, "0" * 64, shards, 1)
    plan = Plan(0, "0" * 16, (file,), shards * IMAGES, IMAGES, shards, 0)
    store.put(plan_key(0), plan_bytes(plan))
    rng, masks = np.random.default_rng(0), blobs(2000, SIDE, SIDE, seed=0)
    variants = [_outcomes(rng, masks) for _ in range(10)]
    for number, shard in enumerate(plan.shard_ids()):
        _commit(store, number, shard, variants[number % len(variants)])
    store.put("summary.json", b"{}")
    return store.uri


def _outcomes(rng: np.random.Generator, masks: Any) -> list[Outcome]:
    outcomes = []
    for number in range(IMAGES):
        ref = ImageRef("", "x", 0)
        if number % 250 == 249:
            outcomes.append(Outcome(ref, Status.CORRUPT, error=f"JPEG: cut off after {number} bytes"))
            continue
        own = masks[rng.integers(0, len(masks), EACH)]
        boxes = np.stack([own.x, own.y, own.x + own.width, own.y + own.height], axis=1).astype(np.float32)
        scores = np.sort(rng.random(EACH, dtype=np.float32))[::-1].copy()
        found = Instances(boxes, scores, rng.integers(0, len(NAMES), EACH), own)
        outcomes.append(Outcome(ref, Status.OK, size=(SIDE, SIDE), found=found))
    return outcomes


def _commit(store: Store, number: int, shard: str, outcomes: list[Outcome]) -> None:
    attempt = f"{1_700_000_000_000 + number}-0123abcd"
    named = [
        replace(o, ref=ImageRef(f"field-{number % 97}/{shard}/{at:04d}.jpg", "x", 0))
        for at, o in enumerate(outcomes)
    ]
    tables = {"instances": instances_table(named, NAMES), "images": images_table(named, attempt)}
    said = file_metadata(shard, attempt, "f" * 64, "m" * 64)
    files = {}
    for name in TABLES:
        data = to_parquet(tables[name], said)
        store.put(public_key(name, shard), data)
        files[name] = TableFile.of(data, tables[name].num_rows)
    first = 1.7e9 + number // 8 * 60 + number % 8
    stages = {"model": 50.0, "decode": 30.0, "fetch": 12.0, "encode": 2.0, "write": 1.0}
    work = Work(f"host-{number % 8}", first, first + 55 + number % 13, 50.0, 125, 0, None, stages)
    record = Commit(
        shard=shard,
        attempt=attempt,
        fingerprint="f" * 64,
        files=files,
        counts=dict(count_values(tables["images"]["status"])),
        classes=count_values(tables["instances"]["category"]),
        instances=tables["instances"].num_rows,
        bytes=IMAGES * 100_000,
        committed=first + 60,
        work=work,
    )
    store.put(commit_key(shard), record.to_json().encode())


@contextmanager
def viewer(uri: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`condinst view` in a process of its own, as soon as it listens: its address, and the process."""
    command = [str(Path(sys.executable).with_name("condinst")), "view", uri, "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"}
    )
    assert server.stdout is not None
    try:
        yield next(line.strip() for line in server.stdout if line.startswith("http")), server
    finally:
        server.terminate()
        assert server.wait() == 0


def first_page(uri: str) -> tuple[float, float, float]:
    """Seconds from the start of the process until it listens, until its first page is there, and those that
    it had the processor by then."""
    began = time.perf_counter()
    with viewer(uri) as (url, server):
        listens = time.perf_counter() - began
        for name in PARTS:
            _fetch(url + name)
        about, page = _get(f"{url}api/runs"), _get(f"{url}api/runs/0/images?size=60")
        shown = time.perf_counter() - began
        used = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert about[0]["images"] >= len(page["images"]) == 60
    return listens, shown, sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def pages(uri: str) -> dict[str, float]:
    """Seconds to the first page, to a filled index, and of pages then."""
    listens, shown, used = zip(*(first_page(uri) for _ in range(STARTS)), strict=True)
    told = {
        "from the start to listening": statistics.median(listens),
        "from the start to the first page": statistics.median(shown),
        "the quickest of them": min(shown),
        "the slowest of them": max(shown),
        "seconds of the processor by then": statistics.median(used),
    }
    with viewer(uri) as (url, server):
        began = time.perf_counter()
        told["last page in plan order, while the index fills"] = timed(
            lambda: _get(f"{url}api/runs/0/images?falling=true")
        )
        while (about := _get(f"{url}api/runs")[0])["indexed"] < about["shards"]:
            assert about["error"] is None, about["error"]
            time.sleep(0.2)
        told["index filled"] = time.perf_counter() - began
        for name, words in PAGES.items():
            address = f"{url}api/runs/0/images?{urlencode(words)}"
            told[f"page: {name}"] = timed(lambda address=address: _get(address))  # type: ignore[misc]
        status = Path(f"/proc/{server.pid}/status").read_text()
        told["GiB at most"] = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    return told


def report(uri: str, folder: Path) -> dict[str, float]:
    """What `condinst report` takes."""
    page = folder / "report.html"
    return {**command("report", uri, "--to", str(page)), "MB of the page": page.stat().st_size / 1e6}


def export(uri: str, folder: Path) -> dict[str, float]:
    """What `condinst export` to COCO takes; the file is taken away."""
    file = folder / "coco.json"
    told = command("export", uri, "--format", "coco", "--to", str(file))
    told["GB of the file"] = file.stat().st_size / 1e9
    file.unlink()
    return told


def command(*arguments: str) -> dict[str, float]:
    """Seconds and memory of the installed command: of it or, where that is more, of one before it."""
    words = [str(Path(sys.executable).with_name("condinst")), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = timed(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "seconds of the processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "GiB at most": after.ru_maxrss / 2**20,
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _get(url: str) -> Any:
    return json.loads(_fetch(url))


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=300) as answer:
        data: bytes = answer.read()
    return data


def main() -> None:
    """Generate, look, report; print and keep what was measured."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="looking-"))
    shards = int(os.environ.get("SHARDS", "1000"))
    uri = generate(folder, shards)
    told = {"report": report(uri, folder), "export": export(uri, folder), "viewer": pages(uri)}
    rounded = {
        part: {name: round(value, 2) for name, value in figures.items()} for part, figures in told.items()
    }
    harness.report("looking", None, {"images": shards * IMAGES, **rounded})


if __name__ == "__main__":
    main()
