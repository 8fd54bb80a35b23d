"""An S3 service that answers as a test tells it to, over HTTP, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "test-secret-value"


@dataclass
class Server:
    """An S3 service that answers as it is told to, and remembers what it was asked."""

    port: int = 0
    answers: list[Answer] = field(default_factory=list)
    """Given in turn; the last one again and again."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Authorization header of each request."""
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Server

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.script.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        self.script.next()(self)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def send(self, status: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 23 Nov 2026 03:13:33 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = length is not None

    def log_message(self, *args: object) -> None:
        pass


def fault(status: int, code: str) -> Answer:
    """An error that echoes what it was sent, as some services do."""

    def answer(request: Handler) -> None:
        echo = (
            f"sent Authorization: {request.headers.get('Authorization')} Signature={SECRET} at ?sig={SECRET}"
        )
        request.send(
            status, f"<Error><Code>{code}</Code><Message>{echo}</Message><X>{SECRET}</X></Error>".encode()
        )

    return answer


def fine(body: bytes = b"data") -> Answer:
    return lambda request: request.send(200, body)


def hang_up(request: Handler) -> None:
    request.close_connection = True


def cut_short(request: Handler) -> None:
    request.send(200, b"da", length=100)


class _Http(ThreadingHTTPServer):
    request_queue_size = 128  # before it listens


@contextmanager
def serving() -> Iterator[Server]:
    """The service, for the time of a block."""
    script = Server()
    http = _Http(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    script.port = http.server_port
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield script
    finally:
        http.shutdown()
        http.server_close()
