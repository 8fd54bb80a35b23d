"""Paths that options name: what cannot be read or written there is said before any work.

Each function makes the `parser` of an option or argument, which is how `option` calls it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jobs.errors import JobError
from pipeline.keys import locate, without_secrets
from pipeline.local import obstacle

Kind = Literal["file", "folder"]


def local(option: str, kind: Kind = "file") -> Callable[[str], Path]:
    """Of a path on this machine; the parser raises JobError for a URI."""

    def parse(given: str) -> Path:
        if "://" in str(given):
            raise JobError(f"{option}: {without_secrets(given)}: this takes a {kind} on this machine")
        return Path(given)

    return parse


def written(option: str, kind: Kind) -> Callable[[str], Path]:
    """Of one that is written; the parser raises JobError where it is seen that it cannot be, too."""

    def parse(given: str) -> Path:
        path = local(option, kind)(given)
        _check(option, path, kind)
        return path

    return parse


def placed(option: str, kind: Kind) -> Callable[[str], str]:
    """Of one that is written here or in a store: a path or a URI.

    The parser raises JobError as that of `written`, StoreError for a URI that names no place.
    """

    def parse(given: str) -> str:
        if locate(str(given)).scheme == "file":
            _check(option, Path(str(given).removeprefix("file://")), kind)
        return str(given)

    return parse


def _check(option: str, path: Path, kind: Kind) -> None:
    if kind == "file" and path.is_dir():
        raise JobError(f"{option}: {path} is a folder; name a file")
    if kind == "file" and path.exists() and os.access(path, os.W_OK):
        return
    folder = path if kind == "folder" else path.parent
    if reason := obstacle(str(folder)):
        raise JobError(f"{option}: {reason}")
