"""A server that stands before an S3 server and counts what is read from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Counter:
    """A server before the S3 server that passes everything on and counts what comes back."""

    upstream: str
    url: str = ""
    bytes: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counter: Counter

    def pass_on(self) -> None:
        upstream = HTTPConnection(urlsplit(self.counter.upstream).netloc)
        upstream.request(self.command, self.path, headers=dict(self.headers))
        answer = upstream.getresponse()
        body = answer.read()
        with self.counter.lock:
            self.counter.bytes += len(body)
            self.counter.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        upstream.close()

    do_GET = do_HEAD = pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def counting(upstream: str) -> Iterator[Counter]:
    """Run one before the server at `upstream`; its `url` takes reads alone."""
    counter = Counter(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Passing,), {"counter": counter}))
    counter.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield counter
    server.shutdown()
    server.server_close()
