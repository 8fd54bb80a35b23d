"""What kills cost a training: its final AP after them, beside the same undisturbed, and beside other seeds.

    python -m tests.bench.killed --steps 160 --seeds 3

Two workers fine-tune the demo model on generated scenes. Undisturbed with several seeds, whose spread is the
noise; once more with the first seed, a worker killed at a quarter of the steps and the whole job at a half,
after which the same command goes on. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from jobs.scenes.dataset import write_dataset
from tests.bench.harness import report

DRIVER = Path(__file__).parents[1] / "integration" / "training_driver.py"
SPEC = {"kind": "train", "name": "killed", "model": {"weights": "demo"}, "batch": 4, "samples": 0}


def spec_of(folder: Path, name: str, seed: int, steps: int) -> Path:
    """A training's spec, as a file."""
    data = {
        part: {"uri": str(folder / part / "images"), "annotations": str(folder / part / "truth.json")}
        for part in ("train", "val")
    }
    training = {"steps": steps, "warmup_steps": 10, "checkpoint_steps": max(1, steps // 16)}
    spec = {
        **SPEC,
        "data": data,
        "seed": seed,
        "training": {**training, "measure_steps": steps, "learning_rate": 3e-4},
        "augment": {"size": 192},
        "workers": {"count": 2},
        "output": {"uri": str(folder / name)},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(spec))
    return path


def begin(spec: Path) -> subprocess.Popen[bytes]:
    """The training in a process of its own, with a Ray of its own."""
    command = [sys.executable, str(DRIVER), str(spec)]
    return subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": "local"}, cwd=Path.cwd())


def wait_for(output: Path, step: int, driver: subprocess.Popen[bytes]) -> None:
    """Until a step's checkpoint, or one after it, is there. Raises RuntimeError where the run ends first."""
    while not any(int(path.stem) >= step for path in (output / "checkpoints").glob("*.json")):
        if driver.poll() is not None:
            raise RuntimeError(f"the training ended with {driver.returncode} before step {step}")
        time.sleep(0.1)


def kill_worker(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL to one of the workers."""
    below = psutil.Process(driver.pid).children(recursive=True)
    workers = [p for p in below if any("RayTrainWorker" in part for part in p.cmdline())]
    max(workers, key=lambda p: p.pid).kill()


def kill_all(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole job, Ray's processes too."""
    root = psutil.Process(driver.pid)
    for process in [*root.children(recursive=True), root]:
        process.kill()
    driver.wait()


def ap(output: Path) -> float:
    """The AP of the last measurement."""
    return float(json.loads((output / "measured.jsonl").read_text().splitlines()[-1])["ap"])


def whole(folder: Path, seed: int, steps: int) -> float:
    """Train undisturbed; returns the AP."""
    name = f"whole-{seed}"
    if begin(spec_of(folder, name, seed, steps)).wait():
        raise RuntimeError(f"{name} ended badly")
    return ap(folder / name)


def killed(folder: Path, steps: int) -> float:
    """Train with both kills; returns the AP."""
    spec, output = spec_of(folder, "killed", 0, steps), folder / "killed"
    driver = begin(spec)
    deaths: list[tuple[int, Callable[[subprocess.Popen[bytes]], None]]] = [
        (steps // 4, kill_worker),
        (steps // 2, kill_all),
    ]
    for step, kill in deaths:
        wait_for(output, step, driver)
        kill(driver)
    if begin(spec).wait():
        raise RuntimeError("what was killed did not go on")
    return ap(output)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 160), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_dataset(folder / "train", range(12), 320)
        write_dataset(folder / "val", range(5000, 5006), 320)
        undisturbed = [whole(folder, seed, asked.steps) for seed in range(asked.seeds)]
        after = killed(folder, asked.steps)
    figures = {
        "steps": asked.steps,
        "undisturbed_ap": [round(value, 4) for value in undisturbed],
        "killed_ap": round(after, 4),
        "difference": round(after - undisturbed[0], 4),
        "noise": round(max(undisturbed) - min(undisturbed), 4),
    }
    report("killed", None, figures)


if __name__ == "__main__":
    main()
