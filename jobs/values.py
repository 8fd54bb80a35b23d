"""The values that several sections of a spec hold, each with a check that says what it expects."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from jobs.cron import parse_cron
from jobs.quantities import SIZE_PATTERN, TIME_PATTERN, seconds, size

_SECRET = re.compile(r"(?:SECRET(?:_KEY)?|PASSWORD|PASSWD|TOKEN|(?:API|ACCESS|ACCOUNT|PRIVATE)_?KEY)", re.I)


def _read_by(read: Callable[[str], object], wanted: str) -> Callable[[object], object]:
    """A check that text can be read so; what is not text gets the same words."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"expected {wanted}")
        read(value)
        return value

    return check


def _timezone(name: str) -> None:
    known = zoneinfo.available_timezones() - {"Factory", "localtime"}
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1) or [
        full for full in sorted(known) if full.rsplit("/", 1)[-1].lower() == name.lower().replace(" ", "_")
    ]
    hint = f"did you mean {close[0]}?" if close else "expected one such as Europe/Tallinn or UTC"
    raise ValueError(f"there is no time zone {name[:60]!r}; {hint}")


def _environment_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError(
            f"{name[:60]!r} is no name of an environment variable; expected letters, digits and _"
        )
    return name


def is_secret_name(name: str) -> bool:
    """Whether a variable of that name holds a secret, as names go."""
    return bool(_SECRET.search(name)) and not name.endswith(("_FILE", "_PATH"))


def _plain_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    for name in env:
        _environment_name(name)
        if is_secret_name(name):
            raise ValueError(f"{name} names a secret: put the name alone under secrets, never a value")
        if name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            raise ValueError(f"{name} is for whoever runs the cluster to set")
    return env


def _label(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError("expected a Kubernetes name: at most 63 small letters, digits and dashes")
    return name


def _image(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9._:/@-]{0,254}", name):
        raise ValueError("expected a container image such as registry.example.com/condinst:1.0")
    return name


def _webhook(url: str) -> str:
    try:
        parts = urlsplit(url)
        held = parts.username or parts.password or parts.query
    except ValueError:
        raise ValueError("expected an address such as https://hooks.example.com/jobs") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("expected an address such as https://hooks.example.com/jobs")
    if held:
        raise ValueError(
            "holds credentials; give the name of a secret that holds the address: webhook_secret"
        )
    return url


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} stands twice")
    return names


Time = Annotated[
    Annotated[str, Field(json_schema_extra={"pattern": TIME_PATTERN})],
    BeforeValidator(_read_by(seconds, "a time such as 90s, 30m, 6h or 1h30m")),
]
Size = Annotated[
    Annotated[str, Field(json_schema_extra={"pattern": SIZE_PATTERN})],
    BeforeValidator(_read_by(size, "a size such as 16Gi or 500Mi")),
]
CronText = Annotated[str, BeforeValidator(_read_by(parse_cron, 'a cron expression such as "30 2 * * *"'))]
TimeZone = Annotated[str, BeforeValidator(_read_by(_timezone, "a time zone such as Europe/Tallinn"))]
EnvironmentName = Annotated[str, AfterValidator(_environment_name)]
EnvironmentNames = Annotated[tuple[EnvironmentName, ...], AfterValidator(_unique)]
PlainEnvironment = Annotated[Mapping[str, str], AfterValidator(_plain_environment)]
Webhook = Annotated[str, AfterValidator(_webhook)]
KubernetesName = Annotated[str, AfterValidator(_label)]
Image = Annotated[str, AfterValidator(_image)]
Labels = Mapping[str, str]
