"""Retries and the cap on requests, over HTTP: the only ones there are, bounded, and survived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import remote
from pipeline.inputs import Inputs
from pipeline.manifest import scan
from pipeline.pace import BURST_SECONDS
from pipeline.patience import Patience
from pipeline.records import ImageRef
from pipeline.sources import InputSource
from pipeline.storage import Store, StoreError, StoreOptions, Unavailable
from tests.scripted import Answer, Handler, Server, fault, fine, hang_up, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-value")
    with serving() as script:
        monkeypatch.setenv("AWS_ENDPOINT_URL", script.url)
        yield script


REQUESTS: list[Callable[[Store], object]] = [
    lambda store: store.get("x"),
    lambda store: store.get_range("x", 0, 4),
    lambda store: store.head("x"),
    lambda store: store.put("x", b"data"),
    lambda store: store.create("x", b"data"),
    lambda store: store.copy("x", "y"),
    lambda store: store.delete(["x"]),
    lambda store: list(store.list()),
]


@pytest.mark.parametrize("trouble", [fault(503, "SlowDown"), fault(409, "OperationAborted"), hang_up])
def test_every_request_is_made_again_and_so_often_only(
    server: Server, monkeypatch: pytest.MonkeyPatch, trouble: Answer
) -> None:
    """Neither obstore nor boto3 adds tries of its own."""
    monkeypatch.setattr(remote, "PATIENT", Patience(tries=4, seconds=60, longest_pause=0.01))
    store = Store.open("s3://bucket")
    server.answers = [fine()]
    store.get("x")
    server.answers = [trouble]
    for request in REQUESTS:
        server.asked.clear()
        with pytest.raises(StoreError):
            request(store)
        assert len(server.asked) == 4, request


def test_what_a_service_cannot_do_is_told_at_once(server: Server) -> None:
    server.answers = [fault(501, "NotImplemented")]
    with pytest.raises(StoreError, match="501 NotImplemented") as caught:
        Store.open("s3://bucket").put("x", b"")
    assert not isinstance(caught.value, Unavailable)
    assert len(server.asked) == 1


def test_a_burst_of_slow_downs_is_survived_by_all_who_met_it(server: Server) -> None:
    busy = fault(503, "SlowDown")
    server.answers = [*[busy] * 60, fine()]
    store = Store.open("s3://bucket")
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda n: store.get(f"{n}"), range(16))) == {b"data"}
    assert len(server.asked) == 60 + 16


def test_the_cap_holds_for_all_stores_and_threads_and_for_retries(server: Server) -> None:
    """So many requests cannot have taken less time; how much more they take depends on the machine."""
    rate, options = 40.0, StoreOptions(requests_per_second=40.0)
    busy = fault(503, "SlowDown")
    server.answers = [fine(), *[busy, fine()] * 15, fine()]
    stores = [Store.open("s3://bucket/in", options), Store.open("s3://bucket/out", options)]
    began = time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: stores[n % 2].get(f"{n}"), range(40)))
    elapsed = time.monotonic() - began
    assert len(server.asked) == 40 + 15
    assert elapsed >= (len(server.asked) - 1) / rate - BURST_SECONDS


def test_an_inputs_cap_is_its_own(server: Server, tmp_path: Path) -> None:
    server.answers = [fine()]
    capped = InputSource("s3://capped", options=StoreOptions(requests_per_second=20))
    inputs = Inputs([capped, InputSource("s3://free")])
    began = time.monotonic()
    for number in range(12):
        inputs.fetch(ImageRef("a", f"s3://capped/{number}", 0), 100)
    assert time.monotonic() - began >= 11 / 20 - BURST_SECONDS
    assert inputs.fetch(ImageRef("a", "s3://free/x", 1), 100)[0] == b"data"


def test_a_listing_that_does_not_say_how_to_go_on_is_no_listing(server: Server) -> None:
    """Inputs would be lost without a word."""

    def part(request: Handler) -> None:
        body = (
            "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents>"
        )
        request.send(200, f"{body}</ListBucketResult>".encode())

    server.answers = [part]
    with pytest.raises(StoreError, match="lists a part"):
        list(Store.open("s3://bucket").list())


def test_a_listing_survives_trouble_between_its_pages(server: Server) -> None:
    def page(request: Handler) -> None:
        number = int(request.path.partition("continuation-token=")[2].partition("&")[0] or 0)
        more = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if number < 3 else ""
        body = f"<IsTruncated>{str(number < 3).lower()}</IsTruncated>{more}"
        body += f"<Contents><Key>{number}</Key><Size>1</Size><ETag>e</ETag></Contents>"
        request.send(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

    server.answers = [page, hang_up, fault(500, "InternalError"), page, fault(503, "SlowDown"), page]
    assert [info.key for info in Store.open("s3://bucket").list()] == ["0", "1", "2", "3"]


def test_ten_thousand_folder_markers_are_ten_requests_one_at_a_time(server: Server) -> None:
    """The next page is asked for when the one before is used up, so however many there are, one is held."""

    def page(request: Handler) -> None:
        number = int(request.path.partition("continuation-token=")[2].partition("&")[0] or 0)
        names = [f"in/{number * 1000 + n:05d}/" for n in range(1000)] + ["in/last.jpg"] * (number == 9)
        objects = "".join(
            f"<Contents><Key>{k}</Key><Size>{int(k[-1] != '/')}</Size></Contents>" for k in names
        )
        more = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if number < 9 else ""
        body = f"<IsTruncated>{str(number < 9).lower()}</IsTruncated>{more}{objects}"
        request.send(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

    server.answers = [page]
    found = Store.open("s3://bucket/in").list()
    next(found)
    assert len(server.asked) == 1
    found.close()
    server.asked.clear()
    counted = scan([InputSource("s3://bucket/in")])
    assert (counted.images, counted.skipped) == (1, {"folder_marker": 10_000})
    assert len(server.asked) == 10
