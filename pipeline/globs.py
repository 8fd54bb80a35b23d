"""Globs over paths: `*.jpg` at any depth, `raw/**/*.tif` from the root."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from pipeline.sources import InputError


def matcher(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], str | None]:
    """Return a function that says why a path is left out: `not_included`, `excluded`, or None when taken.

    A pattern without '/' is held against the last part of the path, one with '/' against the whole path.
    `*` and `?` stand within one part, `[ab]` and `[!ab]` for one character of it; `**` as a part stands for
    any number of parts, none too. `raw/` means all that is below `raw`; a '/' at the start ties a pattern to
    the root. Case counts. Raises InputError for a pattern that is empty.
    """
    wanted, unwanted = _any(include), _any(exclude)

    def look(path: str) -> str | None:
        if include and not wanted(path):
            return "not_included"
        return "excluded" if unwanted(path) else None

    return look


def _any(patterns: Iterable[str]) -> Callable[[str], object]:
    alternatives = [_translate(pattern) for pattern in patterns]
    if not alternatives:
        return lambda path: None
    return re.compile("|".join(alternatives), re.DOTALL).fullmatch


def _translate(pattern: str) -> str:
    if not pattern.strip("/"):
        raise InputError(f"{pattern!r} in include or exclude is not a pattern; write such as *.jpg or raw/**")
    if "/" not in pattern:
        return "(?:.*/)?" + _part(pattern)
    parts = pattern.lstrip("/").split("/")
    if parts[-1] == "":
        parts[-1] = "**"
    return _join(parts)


def _join(parts: Sequence[str]) -> str:
    """Regex of a path: a `**` swallows whole parts with their slashes, the last one needs at least a part.

    What stands between two `**` may be taken where it first fits, as the second swallows the rest; so it is
    never looked for twice (an atomic group), and no pattern takes longer than patterns and paths are long.
    """
    *blocks, last = _split(list(parts), "**")
    expression = "".join(
        f"(?>(?:[^/]*/)*?{_below(block)})" if number else _below(block) for number, block in enumerate(blocks)
    )
    if blocks:
        expression += "(?:[^/]*/)*"
    return expression + ("/".join(map(_part, last)) if last else "[^/]*")


def _below(block: Sequence[str]) -> str:
    return "".join(_part(part) + "/" for part in block)


def _split(items: Sequence[str], separator: str) -> list[list[str]]:
    """The items between separators: one more list than there are separators."""
    groups: list[list[str]] = [[]]
    for item in items:
        if item == separator:
            groups.append([])
        else:
            groups[-1].append(item)
    return groups


_GLYPH = re.compile(r"\*+|\?|\[!?\]?[^]]*\]|.", re.DOTALL)


def _part(pattern: str) -> str:
    """Regex of a part. What stands between two stars is taken where it first fits, as in `_join`."""
    glyphs = ["*" if glyph.startswith("*") else glyph for glyph in _GLYPH.findall(pattern)]
    first, *rest = ["".join(map(_glyph, group)) for group in _split(glyphs, "*")]
    if not rest:
        return first
    return first + "".join(f"(?>[^/]*?{fixed})" for fixed in rest[:-1]) + "[^/]*" + rest[-1]


def _glyph(glyph: str) -> str:
    if glyph == "?":
        return "[^/]"
    if glyph.startswith("[") and len(glyph) > 2:
        negated = glyph[1] == "!"
        if inside := glyph[1 + negated : -1]:
            return _characters(inside, negated)
    return re.escape(glyph)


def _characters(inside: str, negated: bool) -> str:
    """Regex of a bracket: single characters and ranges a-b; a range that runs backwards holds nothing."""
    items, at = [], 0
    while at < len(inside):
        first = inside[at]
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            if first <= inside[at + 2]:
                items.append(f"{re.escape(first)}-{re.escape(inside[at + 2])}")
            at += 3
        else:
            items.append(re.escape(first))
            at += 1
    if not items:
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{''.join(items)}]"
