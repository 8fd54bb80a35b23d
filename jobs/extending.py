"""`extends: base.yaml`: one spec laid over another, each value with the place where it was written."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path as FilePath

from jobs.errors import Problem, SpecError
from jobs.yaml_source import Document, Path, Value, parse, shorten

KEY = "extends"
SUFFIXES = (".yaml", ".yml")
MAX_BASES = 10


def read_text(path: FilePath, place: str | None = None, key: str = "") -> str:
    """A spec file's text. Raises SpecError, at `place` or at the file itself."""
    said = "" if place is None else f"{path} "
    try:
        return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            message = f"not UTF-8 text (byte {error.start})"
        else:
            message = f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        raise SpecError([Problem(place or str(path), key, said + message)]) from None


def extend(document: Document, path: FilePath) -> None:
    """Lay the document, read from `path`, over the base that it extends, and over that one's base.

    Mappings are laid over each other; of everything else the nearer one's holds. Raises SpecError for a base
    that is not there, cannot be read, or extends what it is extended by.
    """
    chain, above, folder = [path], document, path.parent
    while isinstance(name := _named(above), str):
        place = str(above.place((KEY,)))
        base_path = _base(folder, name, place)
        if _same(base_path) in map(_same, chain):
            told = " extends ".join(map(str, [*chain, base_path]))
            raise SpecError([Problem(place, KEY, f"goes round in a circle: {shorten(told, 1000)}")])
        if len(chain) > MAX_BASES:
            raise SpecError([Problem(place, KEY, f"more than {MAX_BASES} specs extend each other")])
        base = parse(read_text(base_path, place, KEY), str(base_path))
        chain.append(base_path)
        _lay_over(document, base)
        above, folder = base, base_path.parent


def files_of(path: FilePath) -> list[FilePath]:
    """A spec's file and those of its bases, down to one that is missing or cannot be read; raises nothing."""
    files = [path]
    while len(files) <= MAX_BASES + 1 and (base := _next_file(files[-1])) is not None:
        if _same(base) in map(_same, files):
            break
        files.append(base)
    return files


def _next_file(path: FilePath) -> FilePath | None:
    try:
        name = _named(parse(read_text(path), str(path)))
    except SpecError:
        return None
    if not isinstance(name, str) or not name.endswith(SUFFIXES):
        return None
    return FilePath(os.path.normpath(path.parent / name))


def _named(document: Document) -> Value:
    return document.value.get(KEY) if isinstance(document.value, dict) else None


def _same(path: FilePath) -> str:
    return os.path.realpath(path)


def _base(folder: FilePath, name: str, place: str) -> FilePath:
    """Where the base is. Raises SpecError that names the nearest file where it is not there."""
    path = FilePath(os.path.normpath(folder / name))
    if not name.endswith(SUFFIXES):
        raise SpecError(
            [Problem(place, KEY, f"{shorten(name)!r}: expected a file that ends in .yaml or .yml")]
        )
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        close = difflib.get_close_matches(name, _beside(folder, path.parent), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; bases are looked for from this file's folder"
        raise SpecError([Problem(place, KEY, f"there is no file {shorten(str(path), 300)}{hint}")])
    return path


def _beside(folder: FilePath, below: FilePath) -> list[str]:
    """Specs that could be meant, as this file would name them."""
    try:
        names = sorted(os.listdir(below))[:1000]
    except (OSError, ValueError):
        return []
    return [os.path.relpath(below / name, folder) for name in names if name.endswith(SUFFIXES)]


def _lay_over(own: Document, base: Document) -> None:
    if isinstance(own.value, dict) and isinstance(base.value, dict):
        _fill_in(own, own.value, base, base.value, ())


def _fill_in(
    own: Document, mine: dict[str, Value], base: Document, theirs: dict[str, Value], path: Path
) -> None:
    for key, value in theirs.items():
        here = (*path, key)
        if here == (KEY,):
            continue
        standing = mine.get(key)
        if key not in mine:
            mine[key] = value
            for below in _paths(value, here):
                own.values[below] = base.values[below]
                if below in base.keys:
                    own.keys[below] = base.keys[below]
        elif isinstance(standing, dict) and isinstance(value, dict):
            _fill_in(own, standing, base, value, here)


def _paths(value: Value, path: Path) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _paths(below, (*path, index))
