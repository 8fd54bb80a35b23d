"""How fast the training loop is beside a plain one, and how long it waits for images from S3.

    python -m tests.bench.training --steps 20 --repeats 3

Plain: one process, batches that lie ready in memory, forward, losses, backward, AdamW; nothing else. Ours:
`fit` with everything it does, from a quick S3 server in a process of its own. Both in turn, so that what else
the machine does falls on both. Rates are of the steps after the first, which holds what a start costs.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from condinst import CondInst
from condinst.augment import AugmentConfig
from condinst.criterion import Criterion, LossConfig
from condinst.fit import Batch, fit
from condinst.optimizing import FitConfig
from condinst.precision import quickest_precision
from condinst.sampling import Order
from condinst.training import Training
from condinst.views import Views
from jobs.demo_model import demo_config
from jobs.scenes.dataset import write_dataset
from pipeline.samples import Samples, SampleSource
from tests.bench.harness import Timing, report
from tests.bench.s3 import put_folder, s3_server


def plain(model: CondInst, batches: list[Batch]) -> float:
    """The ceiling: a loop that does nothing but learn. Seconds of the steps after the first."""
    criterion = Criterion(LossConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    ends = []
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=quickest_precision("cpu") == "bfloat16"):
            dense = model(batch.x)
        loss = torch.stack(list(criterion(model, dense, batch.targets).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return ends[-1] - ends[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 20), ("repeats", 3), ("batch", 8), ("size", 320), ("decoders", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), range(40), 640)
        with s3_server() as uri:
            put_folder(Path(folder))
            report("training", *measured(asked, uri))


def measured(asked: argparse.Namespace, uri: str) -> tuple[float, dict[str, object]]:
    """Both loops in turn; ours reads every image anew, as nothing is kept between its runs."""
    config = demo_config()
    model = CondInst(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = FitConfig(steps=asked.steps, warmup_steps=0, checkpoint_steps=10**6)

    def views() -> Views:
        samples = Samples([SampleSource(f"{uri}/truth.json", f"{uri}/images")])
        augment = AugmentConfig(size=asked.size)
        return Views(samples.__getitem__, Order((len(samples),), (1.0,), 0), config, LossConfig(), augment)

    ready = list(islice(views().batches(asked.batch, threads=asked.decoders), asked.steps))

    def ours() -> tuple[float, float, float]:
        """Seconds of the start with the first step, of the other steps, and of these waiting for images."""
        training = Training(model, Criterion(LossConfig()), settings)
        began = time.perf_counter()
        ends, waited = [], []

        def after(_: int, told: dict[str, float]) -> None:
            ends.append(time.perf_counter())
            waited.append(told["wait"])

        stream = views().batches(asked.batch, threads=asked.decoders)
        fit(training, training.criterion, stream, settings, after)
        return ends[0] - began, ends[-1] - ends[0], sum(waited[1:])

    plain(model, ready)
    ours()
    pairs = [(plain(model, ready), ours()) for _ in range(asked.repeats)]
    ceiling, own = Timing(tuple(one for one, _ in pairs)), Timing(tuple(one for _, (_, one, _) in pairs))
    images = (asked.steps - 1) * asked.batch
    return ceiling.median / own.median, {
        "views": f"{asked.batch} x {asked.size} px",
        "steps": asked.steps,
        "plain_images_per_second": round(images / ceiling.median, 3),
        "images_per_second": round(images / own.median, 3),
        "start_s": round(statistics.median(start for _, (start, _, _) in pairs), 2),
        "data_wait": round(statistics.median(wait / one for _, (_, one, wait) in pairs), 5),
        "spread": [round(ceiling.spread, 3), round(own.spread, 3)],
    }


if __name__ == "__main__":
    main()
