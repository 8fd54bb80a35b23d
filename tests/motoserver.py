"""moto's S3 server whose conditional requests are served one at a time: `python tests/motoserver.py -p PORT`.

moto by itself looks whether an object is there and then writes it, and on a busy machine another writer comes
in between: two then create one object, which no real service allows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import moto.server

_CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")
_one_at_a_time = threading.Lock()


class Dispatcher(moto.server.DomainDispatcherApplication):  # type: ignore[misc]
    """moto's own application, with that lock."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        if not any(condition in environ for condition in _CONDITIONS):
            return super().__call__(environ, start_response)  # type: ignore[no-any-return]
        with _one_at_a_time:
            return super().__call__(environ, start_response)  # type: ignore[no-any-return]


if __name__ == "__main__":
    moto.server.DomainDispatcherApplication = Dispatcher
    moto.server.main()
