"""A bucket that is nothing but its listing: keys are made as their pages are asked for, over HTTP.

Serves what ListObjectsV2 answers, a thousand keys a page, in a process of its own, and no object.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

from tests.bench.s3 import point_clients_at

PAGE = 1000
_HEAD = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
_KEY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T10:00:00.000Z</LastModified>"
    '<ETag>"9b2cf535f27731c97434{number:09d}"</ETag><Size>{size}</Size></Contents>'
)


def name(number: int) -> str:
    """The key of an image, in the order of the numbers."""
    return f"season-2026/flight-{number // 10_000:05d}/IMG_{number:09d}.jpg"


def page(first: int, keys: int) -> bytes:
    """The page of the listing that begins with a number."""
    last = min(first + PAGE, keys)
    contents = "".join(
        _KEY.format(key=name(number), number=number, size=200_000 + number % 6_000_000)
        for number in range(first, last)
    )
    more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < keys else ""
    truncated = "true" if more else "false"
    return f"{_HEAD}<IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>".encode()


@contextmanager
def listed_bucket(keys: int) -> Iterator[str]:
    """A bucket of so many keys, whose URI this yields; the environment points every client at it."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(keys, sender), daemon=True)
    server.start()
    sender.close()  # so that a server that does not start is the end, and not waited for
    point_clients_at(f"http://127.0.0.1:{receiver.recv()}")
    try:
        yield "s3://listed"
    finally:
        server.terminate()
        server.join()


def _serve(keys: int, sender: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            body = page(int(asked.get("continuation-token", ["0"])[0]), keys)
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sender.send(server.server_address[1])
    server.serve_forever()
