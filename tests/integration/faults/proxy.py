"""An HTTP proxy in front of an S3 server that breaks some requests by rule and keeps a journal of all.

It hands on what it gets byte for byte, the Host header too, so that signatures hold.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.settings import WINDOWS
from tests.integration.faults.work import INPUTS

Fault = Literal[
    "500",  # InternalError, the request is not carried out
    "503",  # SlowDown
    "hang",  # no answer for long or until the client gives up; then the request arrives after all
    "reset",  # the connection is reset before the request is carried out
    "lost answer",  # the request is carried out, and the connection reset instead of answered
    "truncated",  # the answer's body ends in the midst
    "cut upload",  # the request's body ends in the midst
    "error in 200",  # a copy that failed after its status was sent, as S3 documents
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Kind = Literal["input", "read", "list", "attempt", "record", "publish", "sweep", "other"]
"""What a request is for."""
BODIES: dict[str, str] = {"500": "InternalError", "503": "SlowDown", "error in 200": "InternalError"}
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


@dataclass(frozen=True)
class Rule:
    """Break the requests `skip` + 1 to `skip` + `times` of one kind."""

    fault: Fault
    kind: Kind
    skip: int
    times: int
    seconds: float = 0.0
    """How long a request hangs at most; the client may give up before."""

    def __str__(self) -> str:
        return f"{self.fault} x{self.times} at {self.kind} {self.skip + 1}"


@dataclass
class Entry:
    """One request that reached the server. `began` and `ended` count all events of the proxy."""

    method: str
    key: str
    kind: Kind
    status: int
    began: int
    ended: int


class Proxy:
    """Serves on a free port of loopback until closed."""

    def __init__(self, upstream: str, rules: Sequence[Rule]) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._rules = [[rule, 0] for rule in rules]
        self._lock = threading.Lock()
        self._events = itertools.count()
        self.closing = threading.Event()
        self.journal: list[Entry] = []
        self.fired: list[str] = []
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """End the service; requests that hang are dropped."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def rule(self, kind: Kind) -> Rule | None:
        """What is to happen to the next request of a kind. A request meets one rule at most."""
        chosen: Rule | None = None
        with self._lock:
            for pair in self._rules:
                rule, seen = pair
                if rule.kind != kind:
                    continue
                pair[1] = seen + 1
                if chosen is None and rule.skip <= seen < rule.skip + rule.times:
                    chosen = rule
                    self.fired.append(f"{rule.fault} at {kind}")
        return chosen

    def forward(self, request: _Handler, body: bytes, kind: Kind, cut: bool = False) -> tuple[Any, bytes]:
        """Carry a request out, or only the first half of its body; returns the answer and its body."""
        connection = HTTPConnection(self._upstream, timeout=120)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            began = next(self._events)
            connection.endheaders(body[: len(body) // 2] if cut else body)
            if cut:
                return None, b""
            answer = connection.getresponse()
            data = answer.read()
            entry = Entry(
                request.command, key_of(request.path), kind, answer.status, began, next(self._events)
            )
            with self._lock:
                self.journal.append(entry)
            return answer, data
        finally:
            connection.close()


@contextmanager
def proxy(upstream: str, rules: Sequence[Rule] = ()) -> Iterator[Proxy]:
    """A proxy for the time of a block."""
    it = Proxy(upstream, rules)
    try:
        yield it
    finally:
        it.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed leave broken connections; nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        return

    def handle_one_request(self) -> None:
        with suppress(OSError, ValueError, HTTPException):
            super().handle_one_request()
            return
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = kind_of(self.command, self.path, "x-amz-copy-source" in self.headers)
        rule = self.proxy.rule(kind)
        if rule is None:
            self._answer(*self.proxy.forward(self, body, kind))
        else:
            self._break(rule, body, kind)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _break(self, rule: Rule, body: bytes, kind: Kind) -> None:
        fault = rule.fault
        if fault in BODIES:
            self._refuse(200 if fault == "error in 200" else int(fault), BODIES[fault])
        elif fault == "truncated":
            answer, data = self.proxy.forward(self, body, kind)
            self._answer(answer, data, sent=len(data) // 2)
            self._reset()
        else:
            if fault == "hang":
                self._wait_for_client(rule.seconds)
            if fault != "reset":
                self.proxy.forward(self, body, kind, cut=fault == "cut upload")
            self._reset()

    def _answer(self, answer: Any, data: bytes, sent: int | None = None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        if answer.status != 204:
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(data[:sent])
        self.wfile.flush()

    def _refuse(self, status: int, code: str) -> None:
        data = (
            f"<Error><Code>{code}</Code><Message>Please reduce your request rate.</Message></Error>".encode()
        )
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _wait_for_client(self, seconds: float) -> None:
        """Until the client hangs up, or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.proxy.closing.is_set():
                raise OSError("the proxy is closed")
            readable, _, _ = select.select([self.connection], [], [], 0.2)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return


def key_of(path: str) -> str:
    """The object's key in a request's path: `/bucket/key?query`."""
    return unquote(urlsplit(path).path.lstrip("/").partition("/")[2])


def kind_of(method: str, path: str, copies: bool) -> Kind:
    """What a request is for. Outputs lie under a folder of their own, inputs under one of `INPUTS`."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    key = key_of(path)
    top, _, inside = key.partition("/")
    folder = inside.removeprefix(f"{WINDOWS}/").partition("/")[0]
    if "list-type" in query:
        return "list"
    if "delete" in query or method == "DELETE":
        return "sweep"
    if method == "PUT":
        return "publish" if copies else {"_attempts": "attempt", "commits": "record"}.get(folder, "other")  # type: ignore[return-value]
    return "input" if top in INPUTS else "read"
