"""Read YAML as plain data and remember where every key stands.

A spec is hostile input until it is checked, so this reads less than YAML offers: one document, a mapping at
its top, text keys without duplicates, no tags, bounded size, depth and alias expansion. Scalars follow
YAML 1.2: only `true` and `false` are booleans (`no` is text), `1e-3` is a number, a date is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import yaml

from jobs.errors import Problem, SpecError
from jobs.yaml_quotes import in_quotes, unquoted

Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]
Path = tuple[str | int, ...]

MAX_CHARACTERS = 200_000
MAX_DEPTH = 40
MAX_NODES = 20_000


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column from 1, or a `--set` argument."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass
class Document:
    """Plain data with the place of each key and of each value, by path from the top."""

    value: Value
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Place of the value at `path`, or of its nearest ancestor that was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.values:
                return self.values[path[:end]]
        return self.values[()]

    def key_place(self, path: Path) -> Place:
        """Place of the key at `path`, or of the value where it has no key."""
        return self.keys.get(path) or self.place(path)


class _Loader(yaml.SafeLoader):
    """PyYAML's reader with YAML 1.2's core scalars; only its node graph is used, never its constructors."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Compose one node, refusing to go deeper than a spec ever does."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self.depth -= 1
        return node


_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def parse(text: str, source: str) -> Document:
    """Parse one YAML document whose top is a mapping; `source` is how errors name it.

    Raises SpecError for anything else.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError(
            [Problem(source, "", f"{len(text):,} characters; a spec has at most {MAX_CHARACTERS:,}")]
        )
    document = parse_value(text, source)
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else f"is {describe(document.value)}"
        raise SpecError([Problem(source, "", f"the document {what}; a spec is a mapping of keys to values")])
    return document


def parse_value(text: str, source: str, remedy: Callable[[str], str] = in_quotes) -> Document:
    """Parse one YAML value of any kind, as strictly as a spec. Raises SpecError.

    `remedy` says what to do about a value that lacks its quotes.
    """
    return _build(_compose(text, source, remedy), source)


def is_plain_text(text: str) -> bool:
    """Whether text needs no quotes to stay text for any reader of YAML 1.2."""
    number = _INT.fullmatch(text) or _FLOAT.fullmatch(text)
    return not (number or text in _NULLS or text in _BOOLS)


class Dumper(yaml.SafeDumper):
    """Writes what YAML 1.1 and 1.2 read alike, without aliases."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if is_plain_text(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _represent_text)


def written(value: object) -> str:
    """Plain data as a YAML document that `parse` reads as the same: the text `1e3` stays text."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=True, width=110, allow_unicode=True)


def describe(value: object) -> str:
    """A value in a user's words and short: `the text 'abc'`, `a list of 3`, `1.5`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return shorten(str(value))
        case str():
            return f"the text {shorten(repr(value))}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "a mapping"
    return type(value).__name__


def shorten(text: str, limit: int = 80) -> str:
    """`text` cut to `limit` characters, so that an error stays readable."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _compose(text: str, source: str, remedy: Callable[[str], str]) -> yaml.Node | None:
    flow = False
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            flow = bool(loader.flow_level)
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source)
        if error.context == "expected a single document in the stream":
            message = "a second document begins; a spec is one document"
        elif lacking := unquoted(error, text, flow=flow):
            message = f"{lacking[0]}; {remedy(lacking[1])}"
        else:
            message = f"not valid YAML: {error.problem or error.context or 'cannot be read'}"
            if "'\\t'" in message:
                message = "not valid YAML: a tab stands here; use spaces"
        raise SpecError([Problem(str(place), "", message)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise SpecError([Problem(f"{source}:{line}", "", message)]) from None
    except (
        ValueError,
        OverflowError,
    ) as error:  # PyYAML's scanner lets int() and chr() of a hostile escape through
        raise SpecError([Problem(source, "", f"not valid YAML: {shorten(str(error))}")]) from None


def _build(root: yaml.Node | None, source: str) -> Document:
    builder = _Builder(source)
    value = None if root is None else builder.build(root, ())
    if builder.problems:
        raise SpecError(builder.problems)
    builder.document.value = value
    builder.document.values.setdefault((), Place(source, 1, 1))
    return builder.document


class _Builder:
    """Walks the node graph once, aliases expanded, and collects every problem on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.document = Document(None)
        self.problems: list[Problem] = []
        self._visited = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Value:
        self._visited += 1
        if self._visited > MAX_NODES:
            raise SpecError(
                [self._problem(node, path, f"more than {MAX_NODES:,} values once aliases are expanded")]
            )
        if id(node) in self._open:
            raise SpecError([self._problem(node, path, "an alias that contains itself")])
        self._open.add(id(node))
        self.document.values[path] = self._place(node)
        value = self._value(node, path)
        self._open.discard(id(node))
        return value

    def _value(self, node: yaml.Node, path: Path) -> Value:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._refuse_tag(node, path)
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node.value, path)

    def _mapping(self, pairs: Iterable[tuple[yaml.Node, yaml.Node]], path: Path) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key_node, value_node in pairs:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "a key must be plain text")
                continue
            key = self._text(key_node, path)
            here = (*path, key)
            if key in result:
                first = self.document.keys[here].line
                self._refuse(key_node, here, f"the key stands twice; first on line {first}")
                continue
            self.document.keys[here] = self._place(key_node)
            result[key] = self.build(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Scalar:
        if node.tag != "tag:yaml.org,2002:str":
            self._refuse_tag(node, path)
            return None
        return self._text(node, path) if node.style else self._plain(node, path)

    def _plain(self, node: yaml.ScalarNode, path: Path) -> Scalar:
        text: str = node.value
        if text in _NULLS:
            return None
        if text in _BOOLS:
            return _BOOLS[text]
        if _INT.fullmatch(text):
            if len(text) > 30:
                self._refuse(node, path, "a number of more than 30 digits; put it in quotes if it is text")
                return None
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        text: str = node.value
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self._refuse(
                node, path, "holds a character that no name or text can have (NUL, or half of a pair)"
            )
            return ""
        return text

    def _refuse_tag(self, node: yaml.Node, path: Path) -> None:
        quotes = ", text that begins with ! in quotes" if node.tag.startswith("!") else ""
        self._refuse(
            node, path, f"the tag {shorten(node.tag)} has no place in a spec; write plain values{quotes}"
        )

    def _refuse(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(self._problem(node, path, message))

    def _problem(self, node: yaml.Node, path: Path, message: str) -> Problem:
        return Problem(str(self._place(node)), dotted(path), message)

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.source, node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(path: Path) -> str:
    """A path as errors and `--set` write it: `input.0.uri`."""
    parts = (str(part) for part in path)
    return shorten(".".join(part if part.isprintable() else repr(part) for part in parts), 120)
