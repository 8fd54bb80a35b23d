"""From a document to a spec: every problem at once, each with its place and in the user's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobs.conventions import JobSpec
from jobs.errors import Problem, SpecError
from jobs.extending import KEY, extend, read_text
from jobs.filling import Surroundings, fill, missing_secrets
from jobs.overrides import override
from jobs.spec import SegmentSpec
from jobs.yaml_source import Document, Path, describe, dotted, parse, written

if TYPE_CHECKING:
    from jobs.train_spec import TrainSpec

Schema = Mapping[str, Any]
TAKEN_BY = {
    "segment": "`condinst run`, plan, try and others",
    "train": "`condinst train`, status, top, cancel, submit, jobs, render and schedule",
}
"""Commands that take each kind of spec."""
AnySpec = TypeVar("AnySpec", bound=JobSpec)


def load(
    path: FilePath,
    overrides: Sequence[str] = (),
    kind: type[AnySpec] = SegmentSpec,  # type: ignore[assignment]
    around: Surroundings | None = None,
) -> AnySpec:
    """Read a spec file of a kind with what it extends, apply `key.path=value` overrides, check the whole.

    Raises SpecError with every problem found, for whatever the file holds.
    """
    return checked(_read(path, overrides), kind, around or Surroundings())


def load_job(
    path: FilePath, overrides: Sequence[str] = (), around: Surroundings | None = None
) -> SegmentSpec | TrainSpec:
    """The same for a file of any kind: a SegmentSpec or a TrainSpec. Raises SpecError."""
    return _job(_read(path, overrides), around or Surroundings())


def load_whole(path: FilePath) -> tuple[JobSpec, str]:
    """A job's spec, and its file's text with its bases laid in; nothing in that is filled in.

    Raises SpecError.
    """
    document = _read(path, ())
    stated = document.value if isinstance(document.value, dict) else {}
    text = written({key: value for key, value in stated.items() if key != KEY})
    return _job(document, Surroundings()), text


def load_job_text(text: str, source: str, around: Surroundings | None = None) -> JobSpec:
    """Like `load_job`, of a spec given as text; `source` is how errors name it. Raises SpecError."""
    return _job(_document(text, FilePath(source), ()), around or Surroundings())


def _job(document: Document, around: Surroundings) -> SegmentSpec | TrainSpec:
    given = document.value.get("kind") if isinstance(document.value, dict) else None
    if given == "train":
        # Here, because it brings torch along.
        from jobs.train_spec import TrainSpec

        return checked(document, TrainSpec, around)
    if given not in (None, "segment"):
        message = f"{describe(given)} was given; expected one of segment, train"
        raise SpecError([Problem(str(document.place(("kind",))), "kind", message)])
    return checked(document, SegmentSpec, around)


def load_text(
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    kind: type[AnySpec] = SegmentSpec,  # type: ignore[assignment]
    around: Surroundings | None = None,
) -> AnySpec:
    """Check a spec given as text; `source` is how errors name it, and where bases are looked for from.

    Raises SpecError.
    """
    return checked(_document(text, FilePath(source), overrides), kind, around or Surroundings())


def checked(document: Document, kind: type[AnySpec], around: Surroundings) -> AnySpec:
    """The spec that a document, changed in place, holds. Raises SpecError with every problem found.

    Of a spec of another kind, or of none that there is, that is the only problem told: its keys may be right.
    """
    _refuse_other_kind(document, get_args(kind.model_fields["kind"].annotation)[0])
    problems = fill(document, around)
    try:
        spec = kind.model_validate(document.value)
    except ValidationError as error:
        schema = kind.model_json_schema()
        told = {problem.place for problem in problems}
        found = [_problem(details, document, schema) for details in error.errors(include_url=False)]
        # What could not be filled in is no value to find more faults with.
        problems += [problem for problem in found if problem.place not in told]
    else:
        conflicts = [Problem(str(document.place(p)), dotted(p), said) for p, said in spec.conflicts()]
        problems += conflicts or missing_secrets(document, spec.secrets, around)
    if problems:
        raise SpecError(sorted(set(problems), key=_reading_order))
    return spec


def _refuse_other_kind(document: Document, wanted: str) -> None:
    given = document.value.get("kind") if isinstance(document.value, dict) else None
    if given in (None, wanted):
        return
    if isinstance(given, str) and given in TAKEN_BY:
        message = f"this is kind: {given}, for {TAKEN_BY[given]}; the command here is for {wanted} jobs"
    else:
        others = "; ".join(f"{kind} is for {TAKEN_BY[kind]}" for kind in TAKEN_BY if kind != wanted)
        message = f"{describe(given)} was given; expected {wanted} here ({others})"
    raise SpecError([Problem(str(document.place(("kind",))), "kind", message)])


def _read(path: FilePath, overrides: Sequence[str]) -> Document:
    return _document(read_text(path), path, overrides)


def _document(text: str, path: FilePath, overrides: Sequence[str]) -> Document:
    document = parse(text, str(path))
    extend(document, path)
    for argument in overrides:
        if argument.partition("=")[0] == KEY:
            raise SpecError([Problem(f"--set {KEY}", KEY, "is read from the file alone")])
        override(document, argument)
    return document


def expected(schema: Schema, top: Schema) -> str:
    """What a value must be, in words: `a number from 0 to 1`."""
    schema = _deref(schema, top)
    if several := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(expected(choice, top) for choice in several if choice.get("type") != "null")
    if "const" in schema or "enum" in schema:
        choices = [str(choice) for choice in schema.get("enum", [schema.get("const")])]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    match schema.get("type"):
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return "true or false"
        case "array" if "prefixItems" in schema:
            each = expected(schema["prefixItems"][0], top)
            return f"a list of {len(schema['prefixItems'])}, each {each}"
        case "array":
            return f"a list, each {expected(schema['items'], top)}"
        case "object" if "properties" not in schema:
            return f"a mapping of names to {expected(schema['additionalProperties'], top)}"
        case "object":
            return f"a mapping with {', '.join(schema['properties'])}"
    return "text"


def _number(schema: Schema) -> str:
    noun = "a whole number" if schema["type"] == "integer" else "a number"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        noun, low, high = f"{noun} from {low:,} to {high:,}", None, None
    limits = {
        "at least": low,
        "above": schema.get("exclusiveMinimum"),
        "at most": high,
        "below": schema.get("exclusiveMaximum"),
        "a multiple of": schema.get("multipleOf"),
    }
    return ", ".join([noun, *(f"{word} {value:,}" for word, value in limits.items() if value is not None)])


def _problem(details: ErrorDetails, document: Document, schema: Schema) -> Problem:
    path = _written_path(details["loc"], document)
    match details["type"]:
        case "extra_forbidden":
            return Problem(str(document.key_place(path)), dotted(path), _unknown_key(path, schema))
        case "missing":
            wanted = expected(_at(schema, path) or {}, schema)
            return Problem(str(document.place(path)), dotted(path), f"missing; expected {wanted}")
        case "value_error":
            return Problem(str(document.place(path)), dotted(path), _value_error(details))
    given = describe(details["input"])
    wanted = expected(_at(schema, path) or {}, schema)
    return Problem(str(document.place(path)), dotted(path), f"{given} was given; expected {wanted}")


def _value_error(details: ErrorDetails) -> str:
    """What a check of ours says, with what was given where it tells only what was expected."""
    said, given = str(details["ctx"]["error"]), details["input"]
    if said.startswith("expected") and isinstance(given, str | int | float):
        return f"{describe(given)} was given; {said}"
    return said


def _written_path(location: Sequence[str | int], document: Document) -> Path:
    """pydantic's location without the list that we put around a single item."""
    path: list[str | int] = []
    here: object = document.value
    for part in location:
        if isinstance(part, int) and not isinstance(here, list):
            continue
        path.append(part)
        if isinstance(here, dict):
            here = here.get(str(part))
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part]
    return tuple(path)


def _unknown_key(path: Path, schema: Schema) -> str:
    key, above = str(path[-1]), path[:-1]
    siblings = list((_at(schema, above) or {}).get("properties", ()))
    close = difflib.get_close_matches(key.lower(), siblings, n=1)
    close += [known for known in siblings if len(key) > 2 and known.startswith(key)]
    if close:
        return f"unknown key; did you mean {close[0]}?"
    elsewhere = [known for known in _known_keys(schema) if known.rsplit(".", 1)[-1] == key]
    if elsewhere:
        return f"unknown key here; did you mean {elsewhere[0]}?"
    return f"unknown key; expected one of {', '.join(siblings)}"


def _known_keys(schema: Schema, node: Schema | None = None, above: str = "") -> Iterator[str]:
    node = _object(node or schema, schema)
    for key, below in node.get("properties", {}).items():
        yield above + key
        yield from _known_keys(schema, below, f"{above}{key}.")


def _at(schema: Schema, path: Path) -> Schema | None:
    """The schema of what stands at `path`; None where nothing may."""
    node: Schema = schema
    for part in path:
        if isinstance(part, int):
            node = next((choice for choice in _choices(node, schema) if choice.get("type") == "array"), {})
            node = node.get("items", {})
        else:
            node = _value_of(_object(node, schema), part)
        if not node:
            return None
    return _object(node, schema) if any(c.get("type") == "object" for c in _choices(node, schema)) else node


def _value_of(node: Schema, key: str) -> Schema:
    """What a mapping may hold under a key: a section's field, or any name's value."""
    found: Schema | None = node.get("properties", {}).get(key)
    free = node.get("additionalProperties")
    return found or (free if isinstance(free, dict) else {})


def _choices(node: Schema, schema: Schema) -> list[Schema]:
    node = _deref(node, schema)
    return [_deref(choice, schema) for choice in node.get("anyOf", node.get("oneOf", [node]))]


def _object(node: Schema, schema: Schema) -> Schema:
    return next((choice for choice in _choices(node, schema) if choice.get("type") == "object"), {})


def _deref(node: Schema, schema: Schema) -> Schema:
    reference = node.get("$ref")
    found: Schema = schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else node
    return found


def _reading_order(problem: Problem) -> tuple[str, list[int], str]:
    source, *numbers = problem.place.rsplit(":", 2)
    return source, [int(number) for number in numbers if number.isdecimal()], problem.key
