"""`${NAME}` and `{{ date }}` in a spec: filled in where it is said that they are, refused elsewhere."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from jobs.conventions import JobSpec
from jobs.errors import Problem, SpecError
from jobs.values import is_secret_name
from jobs.yaml_source import Document, Path, Value, dotted, shorten

DATED = ("uri", "annotations", "run", "weights", "backbone_weights", "include", "exclude")
"""Keys whose text may hold both."""
NAMED = ("endpoint", "region", "profile", "webhook", "image", "namespace", "service_account")
"""Keys whose text may hold `${NAME}`; the values under `env` may, too."""
DATE_VARIABLE = "CONDINST_DATE"
"""Set by whoever starts a scheduled run: the day it is for."""

AnySpec = TypeVar("AnySpec", bound=JobSpec)

_FOUND = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<named>[^{}]*)\}|\{\{(?P<dated>[^{}]*)\}\}|(?P<open>\$\{|\{\{)"
)
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Surroundings:
    """What a spec is read in."""

    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    day: date | None = None
    """What `{{ date }}` is. Default: CONDINST_DATE, else today in the schedule's time zone."""
    keep_date: bool = False
    """Leave `{{ date }}` as it stands, for whoever runs the job later."""
    need_secrets: bool = False
    """Refuse a spec whose `secrets` are not among the variables."""


def fill(document: Document, around: Surroundings) -> list[Problem]:
    """Fill in what texts name, in place; returns what is wrong."""
    top = document.value
    if not isinstance(top, dict):
        return []
    filler = _Filler(document, around)
    # The values under env first: other texts take them from there.
    for path, text in sorted(_texts(top, ()), key=lambda found: found[0][0] != "env"):
        filler.fill(path, text)
    return filler.problems


def use_environment(spec: AnySpec) -> AnySpec:
    """Set what the spec says under `env` for this process and those that it starts; returns the spec."""
    os.environ.update(spec.env)
    return spec


def uses_date(value: Value) -> bool:
    """Whether a text anywhere below still holds `{{ date }}`."""
    return any(found["dated"] for _, text in _texts(value, ()) for found in _FOUND.finditer(text))


def escaped(value: Any, path: Path = ()) -> Any:
    """Filled-in data with each `${` that stands for itself written so that reading it again leaves it."""
    if isinstance(value, dict):
        return {key: escaped(below, (*path, key)) for key, below in value.items()}
    if isinstance(value, list):
        return [escaped(below, path) for below in value]
    return value.replace("${", "$${") if isinstance(value, str) and _may_name(path) else value


def as_meant(text: str) -> str:
    """What an escaped text says."""
    return text.replace("$${", "${")


def _may_name(path: Path) -> bool:
    """Whether `${NAME}` may stand there; numbers in the path are a list's."""
    keys = [part for part in path if isinstance(part, str)]
    return bool(keys) and (keys[-1] in (*DATED, *NAMED) or (keys[0] == "env" and len(path) == 2))


def missing_secrets(document: Document, names: tuple[str, ...], around: Surroundings) -> list[Problem]:
    """What to say of secrets that the environment lacks."""
    return [
        Problem(
            str(document.place(("secrets", at))),
            dotted(("secrets", at)),
            f"{name} is not set in the environment of this command, or is empty; export it first",
        )
        for at, name in enumerate(names)
        if around.need_secrets and not around.variables.get(name)
    ]


def _texts(value: Value, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _texts(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _texts(below, (*path, index))


class _Filler:
    """Fills one document."""

    def __init__(self, document: Document, around: Surroundings) -> None:
        self.problems: list[Problem] = []
        self._document, self._around = document, around
        top = document.value
        assert isinstance(top, dict)
        self._top = top

    def fill(self, path: Path, text: str) -> None:
        """Fill in one text, or note why not."""
        if not _FOUND.search(text):
            return
        key = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        named = _may_name(path)
        told: list[str] = []
        # All in one pass: what a variable holds is not looked at again.
        filled = _FOUND.sub(lambda found: self._one(found, path, named, key in DATED, told), text)
        self.problems += [Problem(str(self._document.place(path)), dotted(path), words) for words in told]
        self._put(path, filled)

    def _one(self, found: re.Match[str], path: Path, named: bool, dated: bool, told: list[str]) -> str:
        whole = found[0]
        try:
            if found["dated"] is not None:
                return self._date(whole, found["dated"].strip(), dated)
            if found["named"] is not None:
                return self._variable(whole, found["named"], path, named)
            if found["open"] and named:
                raise ValueError(
                    f"{whole} is not closed; expected ${{NAME}}, {{{{ date }}}}, or $${{ for ${{"
                )
        except ValueError as error:
            told.append(str(error))
        return whole[1:] if found["escaped"] and named else whole

    def _variable(self, whole: str, inside: str, path: Path, allowed: bool) -> str:
        whole = shorten(whole, 60)
        if not allowed:
            raise ValueError(
                f"{whole} cannot stand here; it can under env, and in {', '.join((*DATED, *NAMED))}"
            )
        parts = _INSIDE.fullmatch(inside)
        if parts is None:
            raise ValueError(f"{whole} names no variable; expected ${{NAME}} or ${{NAME:-default}}")
        name = parts["name"]
        if is_secret_name(name) or name in self._listed("secrets"):
            raise ValueError(f"{whole} is a secret, and what a spec says is written down; leave it out")
        env = self._top.get("env")
        own = env.get(name) if isinstance(env, dict) and path[0] != "env" else None
        value = own if isinstance(own, str) else self._around.variables.get(name)
        if not value:
            value = parts["default"]
        if value is None:
            raise ValueError(
                f"{whole} is set neither in the environment nor under env; set it, or write "
                f"${{{name}:-default}}"
            )
        return value

    def _date(self, whole: str, name: str, allowed: bool) -> str:
        whole = shorten(whole, 60)
        if name != "date":
            close = difflib.get_close_matches(name, ["date"]) and "; did you mean {{ date }}?"
            raise ValueError(f"{whole} is not known{close or '; there is {{ date }}'}")
        if not allowed:
            raise ValueError(f"{whole} cannot stand here; it can in {', '.join(DATED)}")
        return "{{ date }}" if self._around.keep_date else self._day().isoformat()

    def _day(self) -> date:
        if self._around.day is not None:
            return self._around.day
        if given := self._around.variables.get(DATE_VARIABLE):
            return _given_day(given)
        schedule = self._top.get("schedule")
        zone = schedule.get("timezone") if isinstance(schedule, dict) else None
        try:
            return datetime.now(ZoneInfo(zone if isinstance(zone, str) else "UTC")).date()
        except (ValueError, OSError):  # told of where the time zone stands
            return datetime.now(ZoneInfo("UTC")).date()

    def _listed(self, key: str) -> list[Value]:
        found = self._top.get(key)
        return found if isinstance(found, list) else []

    def _put(self, path: Path, text: str) -> None:
        here: Value = self._top
        for part in path[:-1]:
            here = here[part]  # type: ignore[index]
        here[path[-1]] = text  # type: ignore[index]


def _given_day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        message = f"{shorten(text, 40)!r} is no day; expected one such as 2026-11-28"
        raise SpecError([Problem(f"environment variable {DATE_VARIABLE}", "", message)]) from None
