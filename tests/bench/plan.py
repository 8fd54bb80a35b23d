"""Planning a generated Parquet manifest of ten million keys: seconds, and memory at its peak.

`make bench BENCH=plan`, or `python -m tests.bench.plan 1000000` for another number of keys.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.manifest import InputSource, freeze
from pipeline.storage import Store
from tests.bench import harness

KEYS = 10_000_000
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


def prepare(manifest: str, output: str) -> Callable[[], object]:
    return partial(freeze, [InputSource(manifest, manifest=True)], Store.open(output), SHARD, 0)


def main() -> None:
    keys = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        manifest = Path(folder) / "keys.parquet"
        write_manifest(manifest, keys)
        began = time.perf_counter()
        plan = prepare(str(manifest), f"{folder}/timed")()
        seconds = time.perf_counter() - began
        peak = harness.memory_peak(prepare, str(manifest), f"{folder}/measured")
        figures = {
            "keys": keys,
            "seconds": round(seconds, 2),
            "keys_per_second": round(keys / seconds),
            "peak_mb": round(peak / 1e6, 1),
            "shards": plan.shards,  # type: ignore[attr-defined]
            "manifest_mb": round(manifest.stat().st_size / 1e6, 1),
        }
    harness.report("plan", None, figures)


if __name__ == "__main__":
    main()
