"""A driver in a process of its own: joins a cluster and does what `condinst run` does, with its faults."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

import ray
import ray.data
from rich.console import Console

from jobs.errors import ExitCode, explain
from jobs.segment import run_job
from jobs.spec import SegmentSpec
from tests.integration.faults.inject import DRIVER, install


def begin(spec: str, address: str, environment: Mapping[str, str]) -> None:
    """Run the spec of a file on the cluster at `address`; the exit code is that of the command."""
    told = Path(spec).with_suffix(f".{os.getpid()}.log").open("w")
    os.dup2(told.fileno(), 1)
    os.dup2(told.fileno(), 2)
    environment = {**environment, DRIVER: str(os.getpid())}
    os.environ.update(environment)
    tempfile.tempdir = None  # the process this one was forked from may have chosen for good
    install()
    ray.init(
        address=address,
        runtime_env={
            "env_vars": dict(environment),
            "worker_process_setup_hook": "tests.integration.faults.inject.install",
        },
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    code = _run(SegmentSpec.model_validate_json(Path(spec).read_bytes()))
    ray.shutdown()
    sys.exit(code)


def _run(spec: SegmentSpec) -> int:
    try:
        run_job(spec, console=Console(file=sys.stdout))
    except Exception as error:
        said = explain(error)
        print(said[1] if said else traceback.format_exc(), flush=True)
        return said[0] if said else ExitCode.BUG
    return ExitCode.DONE
