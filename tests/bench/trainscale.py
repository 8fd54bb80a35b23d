"""How training scales from one worker to two, on one machine: the same steps, of which each does half.

    python -m tests.bench.trainscale --steps 24 --repeats 2

`condinst train` on Ray Train over gloo, a core a worker, images and labels in an S3 server in a process of
its own; one worker and two in turn. A step's time is what the run itself tells in its log, the first ones
left out. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.scenes.dataset import write_dataset
from tests.bench.harness import report
from tests.bench.s3 import put_folder, s3_server

DRIVER = Path(__file__).parents[1] / "integration" / "training_driver.py"
WARM = 4
"""Steps that do not count: threads start, memory is laid out."""


def step_seconds(folder: Path, uri: str, workers: int, asked: argparse.Namespace) -> list[float]:
    """Train anew; returns the seconds of each step that counts."""
    output = Path(tempfile.mkdtemp(dir=folder))
    images = {"uri": f"{uri}/images", "annotations": f"{uri}/truth.json"}
    spec = {
        "kind": "train",
        "name": "scaling",
        "model": {"weights": "demo"},
        "data": {"train": images, "held_out": 0.1},
        "batch": asked.batch,
        "samples": 0,
        "training": {"steps": asked.steps, "warmup_steps": 2, "checkpoint_steps": asked.steps},
        "augment": {"size": asked.size},
        "workers": {"count": workers, "cpus": 1},
        "output": {"uri": str(output)},
    }
    path = output.with_suffix(".yaml")
    path.write_text(json.dumps(spec))
    subprocess.run([sys.executable, DRIVER, path], check=True, stdout=subprocess.DEVNULL, env=environment())
    lines = [
        line for log in sorted((output / "log").glob("*.jsonl")) for line in log.read_text().splitlines()
    ]
    return [json.loads(line)["seconds"] for line in lines[WARM:]]


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": "local"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 24), ("repeats", 2), ("batch", 8), ("size", 320)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch, s3_server() as uri:
        write_dataset(Path(scratch) / "in", range(40), 640)
        put_folder(Path(scratch) / "in")
        for _ in range(asked.repeats):
            for workers, found in seconds.items():
                found += step_seconds(Path(scratch), uri, workers, asked)
    rates = {workers: asked.batch / statistics.median(found) for workers, found in seconds.items()}
    figures = {
        "views": f"{asked.batch} x {asked.size} px",
        "steps": len(seconds[1]),
        "images_per_second": {workers: round(rate, 3) for workers, rate in rates.items()},
    }
    report("trainscale", rates[2] / rates[1], figures)


if __name__ == "__main__":
    main()
