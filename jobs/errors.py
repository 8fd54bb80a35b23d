"""Errors a person can meet, each with the exit code the command ends with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """How `condinst` ends; documented in `condinst --help` and `docs/spec.md`."""

    DONE = 0
    BUG = 1
    BAD_SPEC = 2
    STORE = 3
    INCOMPLETE = 4
    REFUSED = 5
    DAMAGED = 6
    TOO_MANY_FAILED = 7
    CANCELLED = 8
    LIMIT = 9
    NOT_BETTER = 10
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES: dict[ExitCode, str] = {
    ExitCode.DONE: "every input is accounted for, whatever its status",
    ExitCode.BUG: "something unexpected: a bug, with a traceback worth reporting",
    ExitCode.BAD_SPEC: "a bad spec or bad arguments, among them a path here that cannot be used; nothing was "
    "started",
    ExitCode.STORE: "a store or a cluster that cannot be reached, or denies access",
    ExitCode.INCOMPLETE: "the run ended with shards missing; run it again to do the rest",
    ExitCode.REFUSED: "refused: the output belongs to other settings, or the cluster is too small",
    ExitCode.DAMAGED: "the output contradicts itself; `condinst verify` says where, and what to do",
    ExitCode.TOO_MANY_FAILED: "more inputs failed than `max_failed` (a training: `data.max_bad`) allows; the "
    "message says which and why",
    ExitCode.CANCELLED: "ended by `condinst cancel`; what is committed stays, run it again to go on",
    ExitCode.LIMIT: "the run's `timeout` or the job's `max_gpu_hours` is used up; what is committed stays",
    ExitCode.NOT_BETTER: "not promoted: the new model is not better for sure; nothing was changed",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; what is committed stays, run it again to go on",
    ExitCode.TERMINATED: "ended by SIGTERM; the same",
}


class JobError(Exception):
    """Something the user can put right: what was wrong, where, and what to do."""

    code = ExitCode.BAD_SPEC


class Incomplete(JobError):
    """The run ended, but not every input has its row."""

    code = ExitCode.INCOMPLETE


class Refused(JobError):
    """The job would harm an output, or cannot run where it was asked to."""

    code = ExitCode.REFUSED


class TooManyFailed(JobError):
    """More inputs ended badly than the job allows."""

    code = ExitCode.TOO_MANY_FAILED


class Interrupted(JobError):
    """A signal or a request ended the run in good order."""

    def __init__(self, message: str, code: ExitCode = ExitCode.INTERRUPTED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: its place (`spec.yaml:7:3`, `--set workers.count`), key and message."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        named = self.place.endswith(f" {self.key}") or self.place.startswith(f"--set {self.key}.")
        key = "" if named else self.key
        return ": ".join(part for part in (self.place, key, self.message) if part)


class SpecError(JobError):
    """A spec that does not hold; carries all its problems, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Put the key or the file that weights or a place were named by before what is wrong with them."""
    from condinst.weightsfile import WeightsError
    from pipeline.storage import BadPath

    try:
        yield
    except (WeightsError, BadPath) as error:
        raise type(error)(f"{place}: {error}") from None


@contextmanager
def on_disk(path: object) -> Iterator[None]:
    """Raise what the disk refuses as a JobError that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise JobError(f"{place}: {error.strerror or error}; name another place") from None


def first_of(names: Sequence[str]) -> str:
    """Some of many names, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def one_line(text: str) -> str:
    """Text with whatever could move a terminal's cursor written out: names come from outside."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def explain(error: Exception) -> tuple[ExitCode, str] | None:
    """Exit code and message of an error that the user can put right; None for a bug."""
    if isinstance(error, JobError):
        return error.code, str(error)
    # Imported here, where something has failed already: the help needs none of them.
    from condinst.compiled import CompileError
    from condinst.weightsfile import WeightsError
    from pipeline.badimages import TooManyBad
    from pipeline.checkpoints import CheckpointError
    from pipeline.cluster import NoCluster
    from pipeline.engine import ClusterTooSmall, NothingWorks
    from pipeline.export.errors import TargetError
    from pipeline.ledger import FingerprintMismatch, LedgerError
    from pipeline.manifest import InputError, PlanError
    from pipeline.models import ModelsError
    from pipeline.samples import SampleError
    from pipeline.storage import BadPath, StoreError
    from pipeline.weights import ModelChanged

    codes: dict[tuple[type[Exception], ...], ExitCode] = {
        (BadPath, TargetError): ExitCode.BAD_SPEC,  # before StoreError, which they are as well
        (StoreError, NoCluster): ExitCode.STORE,
        (CheckpointError,): ExitCode.DAMAGED,
        (NothingWorks,): ExitCode.INCOMPLETE,
        (TooManyBad,): ExitCode.TOO_MANY_FAILED,
        (WeightsError, InputError, SampleError, CompileError): ExitCode.BAD_SPEC,
        (
            ClusterTooSmall,
            FingerprintMismatch,
            LedgerError,
            ModelChanged,
            ModelsError,
            PlanError,
        ): ExitCode.REFUSED,
    }
    return next(((code, str(error)) for kinds, code in codes.items() if isinstance(error, kinds)), None)
