"""The OUTPUT that a command is given: a job's output, or the spec file that names it."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import JobError
from pipeline.storage import Store, StoreOptions


def open_target(target: str, options: StoreOptions) -> Store:
    """The output's store; a spec file brings its own options. Raises SpecError, StoreError."""
    if is_spec(target):
        # A spec's schema takes a second to load; a place needs none of it.
        from jobs.check import load
        from jobs.filling import use_environment
        from jobs.resolve import open_output

        return open_output(use_environment(load(Path(target))))
    return Store.open(target, options)


def is_spec(target: str) -> bool:
    """Whether it names a spec file rather than an output."""
    return target.endswith((".yaml", ".yml")) and Path(target).is_file()


def no_job(store: Store) -> JobError:
    """What to raise where no job ever ran."""
    return JobError(f"{store.uri} holds no job (no job.json); give the output.uri of a job that was started")
