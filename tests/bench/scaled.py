"""What `decode: scaled` costs in AP: one job with it and one without, measured against the truth.

`python -m tests.bench.scaled`: generated fields of 1600 x 1200 pixels and the demo model at half its scale,
so that JPEGs are decoded to half their size. Or real photographs, and weights whose input is at most half as
large: `python -m tests.bench.scaled --weights W.safetensors --images FOLDER --truth COCO.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from condinst import weights
from condinst.config import DEMO, FixedScale
from jobs.scenes.dataset import write_dataset
from tests.bench import harness

SEEDS, SIZE = range(7000, 7016), (1600, 1200)
COMMAND = Path(sys.executable).with_name("condinst")


def generated(folder: Path) -> argparse.Namespace:
    """Fields that the demo model sees at half their size."""
    truth = write_dataset(folder / "fields", SEEDS, SIZE)
    model = weights.load_for_training(DEMO)
    half = model.config.input.model_copy(update={"resize": FixedScale(scale=0.5)})
    model.config = model.config.model_copy(update={"input": half})
    weights.save(model, folder / "half.safetensors")
    return argparse.Namespace(
        weights=folder / "half.safetensors", images=truth.parent / "images", truth=truth
    )


def measured(folder: Path, asked: argparse.Namespace, decode: str) -> dict[str, float]:
    """Mask AP of a job's tables."""
    output, spec, said = (folder / f"{decode}{suffix}" for suffix in ("", ".yaml", ".json"))
    job = {
        "kind": "segment",
        "name": "scaled",
        "input": {"uri": str(asked.images)},
        "model": {"weights": str(asked.weights), "score_threshold": 0.05, "max_instances": 300},
        "output": {"uri": str(output)},
        "decode": decode,
    }
    spec.write_text(json.dumps(job))
    subprocess.run([COMMAND, "run", spec, "--local"], check=True, stdout=subprocess.DEVNULL)
    command = [COMMAND, "evaluate", output, "--truth", asked.truth, "--max-dets", "300", "--json", said]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(said.read_text())["masks"]
    by_size = {f"ap_{size}": found["ap_by_size"][size] for size in ("small", "medium", "large")}
    return {**{name: round(found[name], 5) for name in ("ap", "ap50", "ap75")}, **by_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "images", "truth"):
        parser.add_argument(f"--{name}", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaled-") as scratch:
        folder = Path(scratch)
        given = asked if asked.truth else generated(folder)
        full, scaled = (measured(folder, given, decode) for decode in ("full", "scaled"))
    difference = round(scaled["ap"] - full["ap"], 5)
    harness.report("scaled", None, {"full": full, "scaled": scaled, "difference": difference})


if __name__ == "__main__":
    main()
