"""The OUTPUT that a command is given: a job's output, or the spec file that names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobError, on_disk
from jobs.train_files import JOB_KEY, has
from pipeline.export.files import place_of
from pipeline.export.remote import Remote
from pipeline.storage import NotFound, Store, StoreError, StoreOptions

if TYPE_CHECKING:
    from pipeline.tables import Run


def open_target(target: str, options: StoreOptions) -> Store:
    """The output's store; a spec file of any kind brings its own options. Raises SpecError, StoreError."""
    if is_spec(target):
        # A spec's schema takes a second to load; a place needs none of it.
        from jobs.check import load_job
        from jobs.filling import use_environment
        from jobs.resolve import options_of

        output = use_environment(load_job(Path(target))).output
        return Store.open(output.uri, options_of(output))
    return Store.open(target, options)


def open_run(target: str, options: StoreOptions) -> Run:
    """The run of an output or of a spec file. Raises JobError where no job ever ran."""
    from pipeline.tables import Run  # not every command that needs a place reads tables

    store = open_target(target, options)
    try:
        return Run(store)
    except NotFound:
        raise no_job(store) from None


def is_spec(target: str) -> bool:
    """Whether it names a spec file rather than an output."""
    return target.endswith((".yaml", ".yml")) and Path(target).is_file()


def put_file(uri: str, data: bytes, options: StoreOptions) -> None:
    """Write a file at a path, whose folder is made, or at a URI. Raises StoreError, JobError.

    What is there and no file of its own, such as a link or /dev/stdout, is written into, not replaced.
    """
    place = place_of(uri, options)
    if isinstance(place, Remote):
        store, name = place.file()
    elif place.is_symlink() or (place.exists() and not place.is_file()):
        with on_disk(place):
            place.write_bytes(data)
        return
    else:
        store, name = Store.open(str(place.parent)), place.name
    store.put(name, data)


def no_job(store: Store) -> JobError | NotFound:
    """What to raise where no segment job ever ran, be it that there is no such bucket."""
    training = False
    try:
        training = has(store, JOB_KEY)
        next(store.list(JOB_KEY), None)  # a read of an object may say no more than that it is not there
    except NotFound as error:
        return error
    except StoreError:
        pass
    if training:
        return JobError(
            f"{store.uri} holds a training (train.json), and this command is for segment jobs; `condinst "
            "status`, top and cancel are for both"
        )
    return JobError(f"{store.uri} holds no job (no job.json); give the output.uri of a job that was started")
