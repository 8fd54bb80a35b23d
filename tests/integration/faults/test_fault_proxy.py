"""The proxy breaks what it is told to and nothing else, and its journal says what reached the server."""

from __future__ import annotations

import pytest

from pipeline.storage import Store, StoreOptions
from tests.integration.faults.proxy import FAULTS, Fault, Rule, proxy

FIRST = {
    "500": 0,
    "503": 0,
    "reset": 0,
    "hang": 1,
    "lost answer": 1,
    "truncated": 1,
    "cut upload": 0,
    "error in 200": 0,
}
"""How often a request reaches the server at the first try."""


def through(endpoint: str, bucket: str) -> Store:
    return Store.open(f"{bucket}/out", StoreOptions(endpoint=endpoint))


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("truncated", "error in 200")])
def test_a_broken_write_is_made_again(fault: Fault, s3_endpoint: str, s3_bucket: str) -> None:
    with proxy(s3_endpoint, [Rule(fault, "attempt", 1, 1, seconds=0.5)]) as between:
        store = through(between.endpoint, s3_bucket)
        for number in range(3):
            store.put(f"_attempts/x/{number}", b"word" * 5000)
        assert between.fired == [f"{fault} at attempt"]
        written = [entry.key for entry in between.journal if entry.kind == "attempt" and entry.status == 200]
        assert written.count("out/_attempts/x/1") == FIRST[fault] + 1
        assert len(written) == 3 + FIRST[fault]
        assert store.get("_attempts/x/1") == b"word" * 5000


def test_a_cut_answer_is_asked_for_again(s3_endpoint: str, s3_bucket: str) -> None:
    with proxy(s3_endpoint, [Rule("truncated", "read", 0, 2)]) as between:
        store = through(between.endpoint, s3_bucket)
        store.put("big", b"word" * 5000)
        assert store.get("big") == b"word" * 5000
        assert between.fired == ["truncated at read"] * 2


def test_a_lost_answer_to_a_create_is_seen_as_one_create(s3_endpoint: str, s3_bucket: str) -> None:
    with proxy(s3_endpoint, [Rule("lost answer", "record", 1, 1)]) as between:
        store = through(between.endpoint, s3_bucket)
        assert store.create("commits/a.json", b"first")
        assert not store.create("commits/b.json", b"mine, but who knows")
        statuses = [(entry.key, entry.status) for entry in between.journal if entry.kind == "record"]
        assert statuses == [
            ("out/commits/a.json", 200),
            ("out/commits/b.json", 200),
            ("out/commits/b.json", 412),
        ]


def test_a_copy_that_failed_after_its_status_has_not_happened(s3_endpoint: str, s3_bucket: str) -> None:
    with proxy(s3_endpoint, [Rule("error in 200", "publish", 0, 1)]) as between:
        store = through(between.endpoint, s3_bucket)
        store.put("_attempts/x", b"word")
        store.copy("_attempts/x", "images/x")
        assert [info.key for info in store.list("images/")] in ([], ["images/x"])
        assert between.fired == ["error in 200 at publish"]
