"""A doorkeeper in front of an S3 server that has none: it looks at who asks, and lets through or refuses."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Refusal = tuple[int, str]
"""Status and code of the answer to who is not let through."""
ANONYMOUS = ""
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Asked:
    """One request at the door."""

    method: str
    path: str
    """Bucket and key, decoded."""
    key: str
    """Id of the access key that signed it; ANONYMOUS for none."""
    headers: Mapping[str, str]


@dataclass
class Guard:
    """The door: `judge` says why a request is refused, or None. It is called for one request at a time."""

    upstream: str
    judge: Callable[[Asked], Refusal | None]
    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    """Requests let through, by access key."""
    refused: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self, asked: Asked) -> Refusal | None:
        with self.lock:
            refusal = self.judge(asked)
            (self.refused if refusal else self.seen)[asked.key] += 1
            return refusal


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    guard: Guard

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        asked = Asked(
            self.command,
            unquote(urlsplit(self.path).path),
            signed[1] if signed else ANONYMOUS,
            {name.lower(): value for name, value in self.headers.items()},
        )
        if refusal := self.guard.refuses(asked):
            text = f"<Error><Code>{refusal[1]}</Code><Message>no</Message></Error>".encode()
            self._answer(refusal[0], {}, text)
        else:
            self._forward(body)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _forward(self, body: bytes) -> None:
        connection = HTTPConnection(urlsplit(self.guard.upstream).netloc, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        connection.close()
        self._answer(answer.status, kept, data, length)

    def _answer(
        self, status: int, headers: Mapping[str, str], data: bytes, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def guarding(upstream: str, judge: Callable[[Asked], Refusal | None]) -> Iterator[Guard]:
    """A door to `upstream`, for the time of a block."""
    guard = Guard(upstream, judge)
    server = _Server(("127.0.0.1", 0), type("Door", (_Handler,), {"guard": guard}))
    guard.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield guard
    finally:
        server.shutdown()
        server.server_close()
