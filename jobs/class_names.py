"""Category names from a file: a line each, or a COCO json."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.errors import JobError

_MOST_BYTES = 2**30


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names in the order of classes: lines of a text file, or a COCO json's categories by rising id.

    Raises JobError for a file that is neither, holds no names, or one twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise JobError(f"{path}: larger than a list of names can be")
        text = path.read_bytes().decode()
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: not UTF-8 text") from None
    names = _of_coco(path, text) if text.lstrip().startswith("{") else _of_lines(text)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise JobError(f"{path}: {f'names {twice[0]!r} twice' if twice else 'holds no names'}")
    return names


def _of_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _of_coco(path: Path, text: str) -> tuple[str, ...]:
    try:
        categories = json.loads(text)["categories"]
        return tuple(str(c["name"]) for c in sorted(categories, key=lambda c: int(c["id"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobError(
            f"{path}: begins like JSON, but has no `categories` as COCO sets do "
            f"({type(error).__name__}: {error})"
        ) from None
