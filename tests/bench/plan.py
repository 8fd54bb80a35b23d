"""Planning ten million keys, from a generated Parquet manifest and from a listing: seconds and memory.

`make bench BENCH=plan`, or `python -m tests.bench.plan 1000000` for another largest number of keys. A tenth
of them shows what a key takes. The listing is a bucket's, a thousand keys a page over HTTP, from a process
that makes them up (`tests.bench.listing`).
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.manifest import InputSource, freeze, load_plan
from pipeline.storage import Store
from tests.bench import harness
from tests.bench.listing import listed_bucket

KEYS = 10_000_000
REPEATS = {"manifest": 3, "listing": 1}
CHUNK = 500_000
SHARD = 1000


def write_manifest(path: Path, keys: int) -> None:
    """A row an image as a bucket's inventory has it: URI, bytes, etag."""
    fields = [("uri", pa.string()), ("bytes", pa.int64()), ("etag", pa.string())]
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema(fields)) as writer:
        for start in range(0, keys, CHUNK):
            numbers = pa.array(np.arange(start, min(start + CHUNK, keys)))
            text = pc.utf8_lpad(pc.cast(numbers, pa.string()), 9, "0")
            folder = pc.utf8_slice_codeunits(text, 0, 5)
            uri = pc.binary_join_element_wise(
                "s3://fields/season-2026/flight-", folder, "/IMG_", text, ".jpg", ""
            )
            size = pa.array(rng.integers(200_000, 6_000_000, len(numbers)))
            etag = pc.binary_join_element_wise("9b2cf535f27731c97434", text, "", "")
            writer.write_table(pa.table([uri, size, etag], schema=pa.schema(fields)))


def prepare(source: InputSource, output: str) -> Callable[[], object]:
    return partial(freeze, [source], Store.open(output), SHARD, 0)


def planned(source: InputSource, keys: int, output: Path, repeats: int) -> dict[str, float]:
    """Seconds of planning, and memory at its peak, each time in a process of its own."""
    found = [harness.seconds_and_peak(prepare, source, f"{output}-{number}") for number in range(repeats)]
    plan = load_plan(Store.open(f"{output}-0"), 0)
    assert plan.images == keys
    timing = harness.Timing(tuple(seconds for seconds, _ in found))
    return timing.figures() | {
        "keys": keys,
        "keys_per_second": round(keys / timing.median),
        "peak_mb": round(max(peak for _, peak in found) / 1e6, 1),
        "shards": plan.shards,
    }


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    manifests: list[dict[str, float]] = []
    listings: list[dict[str, float]] = []
    for keys in (most // 10, most):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            manifest = folder / "keys.parquet"
            write_manifest(manifest, keys)
            found = planned(
                InputSource(str(manifest), manifest=True), keys, folder / "manifest", REPEATS["manifest"]
            )
            found["manifest_mb"] = round(manifest.stat().st_size / 1e6, 1)
            manifests.append(found)
            print("manifest", found, flush=True)
            with listed_bucket(keys) as uri:
                found = planned(InputSource(uri), keys, folder / "listing", REPEATS["listing"])
            listings.append(found)
            print("listing", found, flush=True)
    harness.report("plan", None, {"manifest": manifests, "listing": listings})


if __name__ == "__main__":
    main()
