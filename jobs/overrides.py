"""`--set key.path=value`: single values of a spec from the command line."""

from __future__ import annotations

import re

from jobs.errors import Problem, SpecError
from jobs.yaml_source import MAX_DEPTH, Document, Path, Place, Value, describe, dotted, parse_value

_INDEX = re.compile(r"[0-9]{1,5}")


def override(document: Document, argument: str) -> None:
    """Apply `--set key.path=value` in place; the value is YAML, a number in the path is a list's index.

    Raises SpecError naming the argument when it does not parse or its path leads through something else.
    """
    keys, equals, text = argument.partition("=")
    # Only the key is repeated: the value may be what nobody wants in a log.
    source = f"--set {keys if keys.isprintable() else repr(keys)}"
    path: Path = tuple(int(part) if _INDEX.fullmatch(part) else part for part in keys.split("."))
    if not equals or "" in path or len(path) > MAX_DEPTH:
        raise SpecError(
            [Problem(source, "", "expected key.path=value, for example model.score_threshold=0.4")]
        )
    given = parse_value(text, source, lambda value: _shell_quotes(source, value))
    _assign(document.value, path, given.value, source)
    for places in (document.keys, document.values):
        for stale in [known for known in places if known[: len(path)] == path]:
            del places[stale]
    document.values.update({path + below: Place(source) for below in given.values})
    document.keys.update({path + below: Place(source) for below in given.keys})
    document.keys[path] = Place(source)
    for above in (path[:end] for end in range(1, len(path))):
        if above not in document.keys and above not in document.values:
            document.keys[above] = document.values[above] = Place(source)


def _shell_quotes(source: str, value: str) -> str:
    """How to quote a value that begins with a sign of YAML's so that a shell leaves the quotes."""
    return f"put it in quotes, and these in the shell's: {source}='\"{value[0]}...\"'"


def _assign(top: Value, path: Path, value: Value, source: str) -> None:
    here = top
    for depth, part in enumerate(path[:-1]):
        if isinstance(here, dict) and isinstance(part, str):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            raise SpecError([_no_way(source, path[: depth + 1], here)])
    last = path[-1]
    if isinstance(here, dict):
        here[str(last)] = value
    elif isinstance(here, list) and isinstance(last, int) and last < len(here):
        here[last] = value
    else:
        raise SpecError([_no_way(source, path, here)])


def _no_way(source: str, path: Path, here: Value) -> Problem:
    above = dotted(path[:-1]) or "the spec"
    return Problem(source, dotted(path), f"there is no {path[-1]!r} in {above}, which is {describe(here)}")
