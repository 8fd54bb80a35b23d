"""The small values that every part of the pipeline passes around: an input, its window, its fate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """How one input ended. Every input of a job ends as exactly one of these."""

    OK = "ok"
    """Decoded, instances found."""
    EMPTY = "empty"
    """Decoded, no instance found."""
    NODATA = "nodata"
    """Nothing but nodata pixels; the model did not run."""
    CORRUPT = "corrupt"
    """Does not decode; zero bytes too."""
    UNSUPPORTED = "unsupported"
    """A format, a layout or a name that is not read here."""
    TOO_LARGE = "too_large"
    """Over a limit of pixels or bytes."""
    MISSING = "missing"
    """Gone or forbidden when it was read."""
    FAILED = "failed"
    """Anything else; the reason says what happened."""


@dataclass(frozen=True)
class Window:
    """A rectangle of a raster in pixels: top left corner and size."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class ImageRef:
    """One input of a job, as the frozen plan names it."""

    image_id: str
    """Unique over the job's inputs: the path below the input's root, or the user's manifest's id."""
    uri: str
    source: int
    """Index into the job's inputs."""
    etag: str | None = None
    bytes: int | None = None
    window: Window | None = None
    raster: str | None = None
    """Of a tiled job: how the raster is read, as the plan froze it (`pipeline.tiled.frozen`)."""
    problem: str | None = None
    """Why it cannot be read at all (the store cannot address its name); ends as `unsupported`."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Columns of the user's manifest that the job passes through to the `images` table."""


class InputRejected(Exception):
    """An input that cannot be segmented: costs that input, never its shard.

    Raised while fetching or decoding; becomes the input's row in `images`.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


def describe(error: BaseException) -> str:
    """An unexpected error as a reason in a row: its type and its message's first line.

    Addresses differ from run to run, and the tables of two runs must not.
    """
    message = re.sub(r" at 0x[0-9a-f]+", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
