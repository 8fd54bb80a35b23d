"""Tells a webhook how a run ended."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.conventions import JobSpec, NotifySection
from jobs.errors import ExitCode, explain, one_line
from jobs.progress import duration

TRIES = 3
WAIT = 2.0
"""Seconds before the second try; twice that before the third."""


@contextmanager
def notified(spec: JobSpec) -> Iterator[dict[str, Any]]:
    """Run a job inside; its end is told as the spec says. What is put into the dictionary is told too.

    A webhook that cannot be reached is a warning: it changes nothing about the run.
    """
    began, said = time.monotonic(), dict[str, Any]()
    code: int = ExitCode.DONE
    message = ""
    try:
        yield said
    except BaseException as error:
        code, message = _ending(error)
        raise
    finally:
        if spec.notify is not None and (code != ExitCode.DONE or spec.notify.on == "end"):
            _tell(spec.notify, _body(spec, code, message, time.monotonic() - began, said))


def _ending(error: BaseException) -> tuple[int, str]:
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED, "interrupted"
    if isinstance(error, Exception):
        return explain(error) or (ExitCode.BUG, f"{type(error).__name__}: {error}")
    code = getattr(error, "code", ExitCode.BUG)
    return code if isinstance(code, int) else ExitCode.BUG, "ended"


def _body(spec: JobSpec, code: int, message: str, seconds: float, said: dict[str, Any]) -> dict[str, Any]:
    """What is sent; `text` is the key that chats show."""
    outcome = "done" if code == ExitCode.DONE else "failed"
    text = f"condinst: {spec.name} {outcome} after {duration(seconds)}"
    return {
        "text": one_line(f"{text}: {message.splitlines()[0]}" if message else text),
        "job": spec.name,
        "kind": spec.kind,
        "outcome": outcome,
        "exit_code": int(code),
        "message": "\n".join(map(one_line, message.split("\n"))),
        "seconds": round(seconds, 1),
        **said,
    }


def _tell(notify: NotifySection, body: dict[str, Any]) -> None:
    url = notify.webhook or os.environ.get(notify.webhook_secret or "", "")
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT * 2 ** (attempt - 1))
        problem = _post(url, body)
        if problem is None:
            return
    # The address may be a secret: it is not repeated.
    print(f"condinst: the webhook under notify was not told: {problem}", file=sys.stderr)


def _post(url: str, body: dict[str, Any]) -> str | None:
    """Send; returns what went wrong."""
    if not url.startswith(("https://", "http://")):
        return "its address is none of http or https"
    headers = {"Content-Type": "application/json", "User-Agent": "condinst"}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(getattr(error, "reason", error)).__name__
