"""The whole pipeline, Ray and S3 included, against a bare loop over images that lie decoded in memory.

Both run the demo model on one thread, in the same batches. The pipeline's rate is from its first batch to its
last, over HTTP from a server in a process of its own. `make bench BENCH=pipeline`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import condinst
from condinst.preprocess import Prepared
from jobs.scenes.dataset import write_dataset
from pipeline.batching import batches
from pipeline.decode import DecodeLimits, decode
from pipeline.storage import Store
from tests.bench import harness
from tests.bench.s3 import s3_server

SCENES = 480
SIZE = 512
SHARD = 32
REPEATS = 3


def bare_loop(model: condinst.CondInst, images: list[Prepared], batch: int, pixels: int) -> float:
    """Images a second of `predict` alone, in the batches that a worker forms."""
    cut = [
        part for n in range(0, len(images), SHARD) for part in batches(images[n : n + SHARD], batch, pixels)
    ]
    model.predict_prepared(cut[0])
    began = time.perf_counter()
    for part in cut:
        model.predict_prepared(part)
    return len(images) / (time.perf_counter() - began)


def job(bucket: str, number: int, folder: Path) -> dict[str, float]:
    """What a run on Ray says of itself."""
    spec = folder / f"{number}.yaml"
    spec.write_text(
        f"kind: segment\nname: bench\ninput: {{uri: {bucket}/images}}\n"
        f"output: {{uri: {bucket}/out-{number}}}\n"
        f"shards: {{images: {SHARD}}}\n"
    )
    subprocess.run([Path(sys.executable).with_name("condinst"), "run", spec], check=True, capture_output=True)
    summary = json.loads(Store.open(f"{bucket}/out-{number}").get("summary.json"))
    run: dict[str, float] = summary["run"]
    return run


def main() -> None:
    """Bare loop and pipeline in turn; the ratio is of their medians."""
    torch.set_num_threads(1)
    with s3_server() as bucket, tempfile.TemporaryDirectory(prefix="bench-") as name:
        images = write_dataset(Path(name), range(SCENES), SIZE).parent / "images"
        store = Store.open(f"{bucket}/images")
        model = condinst.load("demo")
        prepared = []
        for path in sorted(images.iterdir()):
            data = path.read_bytes()
            store.put(path.name, data)
            prepared.append(model.prepare(decode(data, DecodeLimits())))
        bare, piped = [], []
        for number in range(REPEATS):
            bare.append(bare_loop(model, prepared, 8, 2**25))
            piped.append(job(bucket, number, Path(name))["images_per_second"])
            print(f"bare {bare[-1]:.2f}, pipeline {piped[-1]:.2f} images/s", flush=True)
    figures = {
        "bare_images_per_second": [round(v, 2) for v in bare],
        "pipeline_images_per_second": [round(v, 2) for v in piped],
        "images": SCENES,
        "size": SIZE,
    }
    harness.report("pipeline", statistics.median(piped) / statistics.median(bare), figures)


if __name__ == "__main__":
    main()
