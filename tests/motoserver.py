"""moto's S3 server in a process of its own, whose conditional requests are served one at a time.

moto by itself looks whether an object is there and then writes it, and on a busy machine another writer comes
in between: two then create one object, which no real service allows.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any

SECONDS = 60.0
"""Until the server must have started."""
_CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")


@contextmanager
def moto_server(log: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[str]:
    """Run one on a free port, and yield its URL; `log` gets a line for each request.

    Raises RuntimeError when it does not start.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port, inherited = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, str(Path(__file__).resolve()), "-H", "127.0.0.1", "-p", str(port)]
        # As werkzeug hands a socket to the process that it starts anew: nobody can take the port in between.
        environment = {**os.environ, "WERKZEUG_RUN_MAIN": "true", "WERKZEUG_SERVER_FD": str(inherited)}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, pass_fds=[inherited])
    try:
        _wait(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _wait(port: int) -> None:
    asking = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        asking.request("GET", "/moto-api/")
        asking.getresponse()
    except OSError as error:
        raise RuntimeError("moto's server did not start") from error
    finally:
        asking.close()


def _serve() -> None:
    import moto.server  # who only starts the server needs none of it

    answer, one_at_a_time = moto.server.DomainDispatcherApplication.__call__, threading.Lock()

    def guarded(application: Any, environ: dict[str, Any], start_response: Any) -> Any:
        if not any(condition in environ for condition in _CONDITIONS):
            return answer(application, environ, start_response)
        with one_at_a_time:
            return answer(application, environ, start_response)

    moto.server.DomainDispatcherApplication.__call__ = guarded
    moto.server.main()


if __name__ == "__main__":
    _serve()
