"""One run of a training in a process of its own, so that a test can kill it: `training_driver.py SPEC`."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.check import load
from jobs.train import train_job
from jobs.train_spec import TrainSpec

if __name__ == "__main__":
    train_job(load(Path(sys.argv[1]), (), TrainSpec))
