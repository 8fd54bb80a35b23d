"""A driver in a process of its own, to be killed: `python -m tests.integration.driver SETTINGS WORKERS`.

SETTINGS is a file with pickled settings; WORKERS is 0 for this process, else the size of a Ray pool.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from pipeline.engine import run, run_local
from pipeline.settings import SegmentSettings
from tests.job import start


def main() -> None:
    settings: SegmentSettings = pickle.loads(Path(sys.argv[1]).read_bytes())
    workers = int(sys.argv[2])
    job = start(settings, shard_size=1)
    if workers:
        run(settings, job.pending, workers=workers, on_result=lambda _: None)
    else:
        run_local(settings, job.pending, on_result=lambda _: None)


if __name__ == "__main__":
    main()
