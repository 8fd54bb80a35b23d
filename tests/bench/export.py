"""COCO export of a generated run: instances a second, and memory at two sizes.

`python -m tests.bench.export [FOLDER]` runs it alone; a run that is in FOLDER already is used again. Masks
are blobs of some 400 pixels, 20 an image, in images of 1,536 x 1,536. Seconds of the processor are told too:
a busy machine stretches the others.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from condinst.instances import Instances
from pipeline.commit import Commit, TableFile, Work
from pipeline.export.coco import write_coco
from pipeline.export.selection import Selection
from pipeline.ledger import Ledger
from pipeline.plan import Plan, PlanFile, plan_bytes, plan_key
from pipeline.records import ImageRef, Status
from pipeline.rows import Outcome, images_table, instances_table, to_parquet
from pipeline.schemas import TABLES, file_metadata
from pipeline.storage import Store
from pipeline.tables import Run
from tests.bench import harness
from tests.rasters import blobs

SIDE = 1536
IMAGES = 1000
"""In a shard."""
EACH = 20
SIZES = (5, 50)
"""Shards of the two runs: a hundred thousand and a million instances."""


def generate(folder: Path, shards: int) -> Store:
    """A complete run of so many shards; every shard has the same masks."""
    store = Store.open(str(folder / f"run-{shards}"))
    if (folder / f"run-{shards}" / "done").exists():
        return store
    ledger = Ledger(store)
    ledger.claim({"name": "bench", "fingerprint": "f" * 64, "model_digest": "m" * 64, "settings": {}})
    file = PlanFile("_plans/0/manifest-00000.parquet", shards * IMAGES, "0" * 64, shards, 1)
    plan = Plan(0, "0" * 16, (file,), shards * IMAGES, IMAGES, shards, 0)
    store.put(plan_key(0), plan_bytes(plan))
    outcomes = _outcomes()
    for shard in plan.shard_ids():
        named = [
            replace(outcome, ref=ImageRef(f"{shard}/{n:04d}.jpg", "x", 0))
            for n, outcome in enumerate(outcomes)
        ]
        _commit(ledger, shard, named)
    store.put("done", b"")
    return store


def _outcomes() -> list[Outcome]:
    rng = np.random.default_rng(0)
    many = blobs(2000, SIDE, SIDE, seed=0)
    outcomes = []
    for _ in range(IMAGES):
        masks = many[rng.integers(0, len(many), EACH)]
        corner = np.stack([masks.x, masks.y], axis=1)
        boxes = np.concatenate([corner, corner + np.stack([masks.width, masks.height], axis=1)], axis=1)
        noisy = (boxes + rng.normal(0, 0.5, boxes.shape)).astype(np.float32)
        scores = np.sort(rng.random(EACH, dtype=np.float32))[::-1].copy()
        found = Instances(noisy, scores, rng.integers(0, 4, EACH), masks)
        outcomes.append(Outcome(ImageRef("", "x", 0), Status.OK, size=(SIDE, SIDE), found=found))
    return outcomes


def _commit(ledger: Ledger, shard: str, outcomes: list[Outcome]) -> None:
    attempt = ledger.begin(shard, "bench")
    names = ("plant", "tree", "roof", "vehicle")
    tables = {"instances": instances_table(outcomes, names), "images": images_table(outcomes, attempt)}
    said = file_metadata(shard, attempt, "f" * 64, "m" * 64)
    files = {name: to_parquet(tables[name], said) for name in TABLES}
    ledger.write(shard, attempt, files)
    described = {name: TableFile.of(files[name], tables[name].num_rows) for name in TABLES}
    rows = tables["instances"].num_rows
    record = Commit(
        shard, attempt, "f" * 64, described, {"ok": IMAGES}, {"plant": rows}, rows, 0, 0.0, Work("b")
    )
    ledger.commit(record)


def prepare(uri: str, path: str) -> Callable[[], object]:
    """The export as a function without arguments, after what any process does once."""
    pa.set_cpu_count(1)
    run = Run(Store.open(uri))
    list(run.commits)
    return lambda: write_coco(run, Selection(), Path(path))


def measure(folder: Path) -> None:
    figures: dict[str, dict[str, object]] = {}
    for shards in SIZES:
        store = generate(folder, shards)
        path = folder / "coco.json"
        run = prepare(store.uri, str(path))
        before = time.process_time()
        timing = harness.measure(run, 3, warmup=0)
        processor = (time.process_time() - before) / 3
        rows = shards * IMAGES * EACH
        table = Run(store).instances(["area", "mask"])
        figures[f"{rows:,}"] = {
            **timing.figures(),
            "instances_a_second": round(rows / timing.median),
            "instances_a_processor_second": round(rows / processor),
            "json_mb": round(path.stat().st_size / 1e6),
            "mean_area": round(float(np.mean(table["area"].to_numpy()))),
            "peak_mb": round(harness.memory_peak(prepare, store.uri, str(path)) / 1e6, 1),
        }
        print(json.dumps(figures[f"{rows:,}"]), flush=True)
        path.unlink()
    harness.report("export", None, {"runs": figures})


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        measure(Path(name))


if __name__ == "__main__":
    main()
