"""Real runs at 1 and 2 workers, and a replay of the first on 1 to 512: finish time, worker hours, cost.

The replay of one worker's shards on two is held against the real run on two; the ratio is predicted over
measured. Then status and resume at 100,000 committed shards on the local disk. `make bench BENCH=scale`.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jobs.scenes.dataset import write_dataset
from pipeline import tables
from tests.bench import harness
from tests.bench.committed import measure
from tests.bench.simulation import Cluster, Measured, simulate

SCENES = 480
SIZE = 320
SHARD = 16
IMAGES = 100_000_000
"""Of the job that is forecast, in shards of 1,000."""
WORKERS = (1, 2, 8, 32, 128, 512)
PRICE_PER_WORKER_HOUR = 1.0


def run(folder: Path, workers: int) -> tuple[float, Measured]:
    """Seconds of a whole `condinst run` on Ray, and what its commits tell."""
    output = folder / f"out-{workers}"
    spec = folder / f"{workers}.yaml"
    spec.write_text(
        f"kind: segment\nname: scale\ninput: {{uri: {folder / 'images'}}}\noutput: {{uri: {output}}}\n"
        f"shards: {{images: {SHARD}}}\nworkers: {{count: {workers}}}\n"
    )
    command = Path(sys.executable).with_name("condinst")
    began = time.time()
    subprocess.run([command, "run", spec], check=True, capture_output=True)
    ended = time.time()
    work = [record.work for record in tables.open(str(output)).ledger.records()]
    first, last = min(w.first for w in work if w.first), max(w.last for w in work if w.last)
    busy = np.array([w.busy for w in work])
    # What a worker's time holds beside the model is spread over its shards.
    share = workers * (last - first) / busy.sum()
    return ended - began, Measured(busy * share, first - began, ended - last)


def main() -> None:
    """Print the check against the real runs, then the forecast."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_dataset(folder, range(SCENES), SIZE)
        real = {workers: run(folder, workers) for workers in (1, 2)}
    one = real[1][1]
    checks = {}
    for workers, (seconds, own) in real.items():
        replayed = [simulate(one, SCENES // SHARD, Cluster(workers), seed).seconds for seed in range(20)]
        predicted = float(np.mean(replayed))
        checks[workers] = {
            "measured_s": round(seconds, 1),
            "predicted_s": round(predicted, 1),
            "ratio": round(predicted / seconds, 3),
            "shard_s": round(float(own.shard_seconds.mean()), 3),
            "start_s": round(own.start_seconds, 1),
        }
        print(workers, checks[workers], flush=True)
    forecast = forecasts(one)
    harness.report(
        "scale", float(checks[2]["ratio"]), {"checks": checks, "forecast": forecast, "committed": measure()}
    )


def forecasts(one: Measured) -> dict[str, dict[str, float]]:
    """100 million images on 1 to 512 workers, each dying once in 100 hours.

    A shard of a thousand images takes what as many of the measured ones take together.
    """
    random = np.random.default_rng(0)
    drawn = random.choice(one.shard_seconds, (1000, 1000 // SHARD))
    large = Measured(drawn.mean(1) * (1000 / SHARD), one.start_seconds, one.end_seconds)
    found = {}
    for workers in WORKERS:
        cluster = Cluster(workers, deaths_per_worker_hour=0.01)
        forecast = simulate(large, IMAGES // 1000, cluster)
        ideal = large.shard_seconds.mean() * (IMAGES // 1000) / workers
        found[str(workers)] = {
            **{key: round(value, 1) for key, value in asdict(forecast).items()},
            "days": round(forecast.seconds / 86400, 2),
            "cost": round(forecast.worker_hours * PRICE_PER_WORKER_HOUR),
            "efficiency": round(float(ideal / forecast.seconds), 4),
        }
        print(workers, json.dumps(found[str(workers)]), flush=True)
    return found


if __name__ == "__main__":
    main()
