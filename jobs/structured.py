"""What happens in a run as lines of JSON, for whoever collects logs: an object an event, on stdout.

Without `log_json` the events go nowhere: people read the console's words.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from jobs.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

_log = logging.getLogger("condinst.events")
_log.addHandler(logging.NullHandler())
_log.propagate = False


class JsonLines(logging.Formatter):
    """A record as an object: `time`, `level`, `event`, and what the event says."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; whatever is no JSON value is written as text."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
        }
        fields = getattr(record, "fields", None)
        said |= {"logger": record.name, "message": record.getMessage()} if fields is None else fields
        return json.dumps(said, default=str)


def log_json(stream: TextIO | None = None) -> None:
    """From now on write events, and other libraries' warnings, as lines of JSON; stdout unless told."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines())
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)


def is_on() -> bool:
    """Whether events are written."""
    return _log.isEnabledFor(logging.INFO) and len(_log.handlers) > 1


def console() -> Console:
    """Where a run's words for people go: nowhere when events are written, stdout is theirs then."""
    from rich.console import Console

    return Console(quiet=True, force_terminal=False) if is_on() else Console()


def event(name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Tell of something; the fields are plain values."""
    if is_on():
        _log.log(level, name, extra={"event": name, "fields": fields})


def warn(console: Console, text: str) -> None:
    """Tell of what a person should know, in one line of the console and as an event."""
    console.print(one_line(text), style="yellow", highlight=False, markup=False, soft_wrap=True)
    event("warning", logging.WARNING, message=text)


def relay(text: str) -> None:
    """Write the lines that another process of the run made of its events; any other words are a warning."""
    for line in text.splitlines():
        if not line.startswith("{"):
            event("warning", logging.WARNING, message=line)
            continue
        for handler in _log.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream.write(line + "\n")
                handler.flush()
