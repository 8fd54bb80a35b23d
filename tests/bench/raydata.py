"""`condinst run` beside what a team would write with Ray Data alone: read, decode, predict, write Parquet.

    python -m tests.bench.raydata --scenes 240

Both on Ray with one worker of one core, the demo model, from and to an S3 server in a process of its own, the
same images in batches of eight, in turn. The other has no exactly-once tables, no resume, no row for what is
broken, no care of what kills it. Its rate is from the end of its first batch to that of its last, ours what
the run tells of itself. Prints one JSON line; the ratio is ours to theirs.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.scenes.dataset import write_dataset
from pipeline.storage import Store
from tests.bench import harness
from tests.bench.pipeline import SIZE, job
from tests.bench.s3 import s3_server

BATCH = 8


class Predictor:
    """What `map_batches` is given: a model, and from bytes to rows."""

    def __init__(self, stamps: str) -> None:
        import torch

        import condinst

        torch.set_num_threads(1)
        self._model = condinst.load("demo")
        self._stamps = Path(stamps)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in batch["bytes"]]
        found = self._model.predict(images)
        with self._stamps.open("a") as stamps:
            stamps.write(f"{time.time()} {len(images)}\n")
        rows = [
            (path, at, item)
            for path, item in zip(batch["path"], found, strict=True)
            for at in range(len(item))
        ]
        return {
            "path": np.array([path for path, _, _ in rows]),
            "score": np.array([item.scores[at] for _, at, item in rows], np.float32),
            "category": np.array([item.classes[at] for _, at, item in rows], np.int64),
            "box": np.array([item.boxes[at] for _, at, item in rows], np.float32).reshape(-1, 4),
            "counts": np.array([item.masks.counts[at] for _, at, item in rows], object),
        }


def alone(bucket: str, number: int, folder: str) -> None:
    """In a process of its own: the job in Ray Data."""
    import pyarrow.fs
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    store = pyarrow.fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], region="us-east-1")
    name = bucket.removeprefix("s3://")
    images = ray.data.read_binary_files(f"{name}/images", filesystem=store, include_paths=True)
    rows = images.map_batches(
        Predictor, fn_constructor_args=(f"{folder}/stamps",), concurrency=1, num_cpus=1, batch_size=BATCH
    )
    rows.write_parquet(f"{name}/raydata-{number}", filesystem=store)


def raydata(bucket: str, number: int, folder: Path) -> float:
    """Images a second of Ray Data's job."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.bench.raydata", "--alone", bucket, str(number), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    lines = [line.split() for line in (folder / "stamps").read_text().splitlines()]
    times, counts = [float(at) for at, _ in lines], [int(count) for _, count in lines]
    return sum(counts[1:]) / (times[-1] - times[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--alone", nargs=3)
    asked = parser.parse_args()
    if asked.alone:
        alone(asked.alone[0], int(asked.alone[1]), asked.alone[2])
        return
    found: dict[str, list[float]] = {"ray data": [], "condinst run": []}
    with s3_server() as bucket, tempfile.TemporaryDirectory(prefix="bench-") as name:
        images = write_dataset(Path(name), range(asked.scenes), SIZE).parent / "images"
        store = Store.open(f"{bucket}/images")
        for path in sorted(images.iterdir()):
            store.put(path.name, path.read_bytes())
        for number in range(asked.repeats):
            found["ray data"].append(raydata(bucket, number, Path(name) / str(number)))
            found["condinst run"].append(job(bucket, number, Path(name))["images_per_second"])
    middle = {engine: statistics.median(rates) for engine, rates in found.items()}
    figures = {
        "images_per_second": {engine: [round(rate, 2) for rate in rates] for engine, rates in found.items()},
        "images": asked.scenes,
        "size": SIZE,
    }
    harness.report("raydata", middle["condinst run"] / middle["ray data"], figures)


if __name__ == "__main__":
    main()
