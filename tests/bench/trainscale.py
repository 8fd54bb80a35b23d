"""How training scales from one worker to two, on one machine: the same steps, of which each does half.

Beside them two trainings of one worker each at the same time, which have nothing to do with each other: what
the machine gives two processes.

    python -m tests.bench.trainscale --steps 24 --repeats 2

`condinst train` on Ray Train over gloo, a core a worker, images and labels in an S3 server in a process of
its own; the three in turn. A step's time is what the run itself tells in its log, the first ones
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
from collections.abc import Sequence
from pathlib import Path

from jobs.scenes.dataset import write_dataset
from tests.bench.harness import report
from tests.bench.s3 import put_folder, s3_server

DRIVER = Path(__file__).parents[1] / "integration" / "training_driver.py"
WARM = 4
"""Steps that do not count: threads start, memory is laid out."""


def begin(
    folder: Path, uri: str, workers: int, asked: argparse.Namespace
) -> tuple[Path, subprocess.Popen[bytes]]:
    """Start a training; returns where it writes, and its process."""
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
    return output, subprocess.Popen(
        [sys.executable, DRIVER, path], stdout=subprocess.DEVNULL, env=environment()
    )


def rate(folder: Path, uri: str, groups: Sequence[int], asked: argparse.Namespace) -> float:
    """Images a second of trainings at the same time, each of so many workers, together."""
    started = [begin(folder, uri, workers, asked) for workers in groups]
    if any(process.wait() for _, process in started):
        raise RuntimeError("a training ended badly")
    return sum(asked.batch / statistics.median(seconds(output)) for output, _ in started)


def seconds(output: Path) -> list[float]:
    """Of each step that counts."""
    logs = sorted((output / "log").glob("*.jsonl"))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [json.loads(line)["seconds"] for line in lines[WARM:]]


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": "local"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 24), ("repeats", 2), ("batch", 8), ("size", 320)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    cases: dict[str, tuple[int, ...]] = {"one worker": (1,), "two workers": (2,), "two trainings": (1, 1)}
    found: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as scratch, s3_server() as uri:
        write_dataset(Path(scratch) / "in", range(40), 640)
        put_folder(Path(scratch) / "in")
        for _ in range(asked.repeats):
            for name, groups in cases.items():
                found[name].append(rate(Path(scratch), uri, groups, asked))
    figures = {
        "views": f"{asked.batch} x {asked.size} px",
        "steps": asked.steps - WARM,
        "images_per_second": {name: [round(value, 2) for value in values] for name, values in found.items()},
    }
    best = {name: statistics.median(values) for name, values in found.items()}
    report("trainscale", best["two workers"] / best["one worker"], figures)


if __name__ == "__main__":
    main()
