"""Text that YAML reads as a sign of its own unless it stands in quotes, such as the glob `*.jpg`."""

from __future__ import annotations

import json
import re

import yaml

_MEANINGS = {
    "*": "`*` begins an alias in YAML",
    "&": "`&` begins an anchor in YAML",
    "@": "`@` cannot begin a value in YAML",
    "%": "`%` cannot begin a value in YAML",
    "`": "a backtick cannot begin a value in YAML",
}
_LONGEST = 80


def unquoted(error: yaml.MarkedYAMLError, text: str, *, flow: bool) -> tuple[str, str] | None:
    """What the sign that an error of `text` is about means, and the value that it begins; None for others.

    `flow`: whether the error lies within brackets or braces.
    """
    scanned = (error.context or "") in ("while scanning an alias", "while scanning an anchor")
    mark = error.context_mark if scanned else error.problem_mark
    rest = text[mark.index :] if mark else ""
    if rest[:1] not in _MEANINGS:
        return None
    meaning = _MEANINGS[rest[0]]
    if (error.problem or "").startswith("found undefined alias"):
        return f"{meaning}, and nothing has that name", re.split(r"[\s,\]}]", rest)[0]
    return meaning, re.split(r"[,\]}]|\s#" if flow else r"\s#", rest.splitlines()[0])[0].rstrip()


def in_quotes(value: str) -> str:
    """What to do about a value that a file holds without quotes."""
    if len(value) > _LONGEST:
        return "put it in quotes"
    return f"put it in quotes: {json.dumps(value, ensure_ascii=not value.isprintable())}"
