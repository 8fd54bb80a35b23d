"""Stores over HTTP: a real S3 server for what must work, a scripted one for what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import boto3
import pytest

from pipeline.objects import Changed
from pipeline.storage import Denied, NotFound, ObjectInfo, Store, StoreError, StoreOptions, Unavailable
from tests.scripted import SECRET, Answer, Handler, Server, cut_short, fault, fine, hang_up, serving

# What must work


def test_objects_come_back_under_their_names(s3_bucket: str) -> None:
    store = Store.open(f"{s3_bucket}/folder")
    keys = ["a b.jpg", "a%20b #1.jpg", "a/b?c&d=e+f.jpg", "a/é日.jpg", "a\\b", "x/y/z"]
    for key in keys:
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys, key=str.encode)
    for key in keys:
        data, info = store.get_with_info(key)
        assert data == key.encode()
        assert info == store.head(key)
        assert info.size == len(data)
    assert {info.key: info for info in store.list("a/")} == {
        k: store.head(k) for k in keys if k.startswith("a/")
    }
    assert [info.key for info in Store.open(s3_bucket).list("folder/x")] == ["folder/x/y/z"]
    store.delete([*keys, "was never there"])
    assert list(store.list()) == []


def test_names_that_cannot_be_asked_for_are_listed(s3_bucket: str) -> None:
    client = boto3.client("s3")
    keys = ["/lead", "a//b", "a/./b", "a/../b", "tab\there", "trail/", "a\x01b", "plain"]
    for key in keys:
        client.put_object(Bucket=s3_bucket[5:], Key=key, Body=b"1")
    store = Store.open(s3_bucket)
    listed = [info.key for info in store.list()]
    assert listed == sorted(keys, key=str.encode)
    assert [key for key in listed if store.problem(key) is None] == ["plain"]
    with pytest.raises(StoreError, match="'//'"):
        store.get("a//b")


def test_listing_goes_on_over_many_pages(s3_bucket: str) -> None:
    store = Store.open(s3_bucket)
    keys = [f"{n:04d}" for n in range(1005)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda key: store.put(key, b""), keys))
    assert [info.key for info in store.list()] == keys
    store.delete(keys)
    assert list(store.list()) == []


def test_ranges_copies_and_large_objects(s3_bucket: str) -> None:
    store = Store.open(f"{s3_bucket}/x")
    large = bytes(range(256)) * (80 << 10)
    store.put("large", large)
    store.put("public/large", b"old")
    store.copy("large", "public/large")
    assert store.get("public/large") == large
    assert store.get_range("large", 1000, 5) == large[1000:1005]
    assert store.get_range("large", len(large) - 2, 5) == large[-2:]
    with pytest.raises(Changed, match=r"/x/large ends before the bytes"):
        store.get_range("large", len(large) + 9, 5)
    seen: list[ObjectInfo] = []
    store.get_range("large", 1000, 5, seen.append)
    assert [(info.size, info.etag) for info in seen] == [(len(large), store.head("large").etag)]
    with store.reader("large") as reader:
        reader.seek(-3, 2)
        assert reader.read() == large[-3:]
    with pytest.raises(NotFound, match=r"/x/gone does not exist"):
        store.copy("gone", "public/large")


def test_of_many_creators_exactly_one_succeeds_and_its_bytes_stay(s3_bucket: str) -> None:
    store = Store.open(s3_bucket)
    with ThreadPoolExecutor(16) as threads:
        for trial in range(10):
            won = list(threads.map(lambda n, key=f"{trial}": store.create(key, b"%d" % n), range(16)))
            assert sum(won) == 1
            assert store.get(f"{trial}") == b"%d" % won.index(True)


def test_probe_leaves_nothing_behind(s3_bucket: str) -> None:
    store = Store.open(f"{s3_bucket}/out")
    store.probe()
    assert list(store.list()) == []


def test_what_is_not_there_is_said_to_be_so(s3_bucket: str) -> None:
    store = Store.open(s3_bucket)
    for call in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound, match=rf"{s3_bucket}/a/b does not exist"):
            call("a/b")
    nowhere = Store.open("s3://there-is-no-such-bucket/x")
    for call in (lambda: nowhere.get("y"), lambda: nowhere.put("y", b""), lambda: list(nowhere.list())):
        with pytest.raises(NotFound, match=r"no such bucket at http://127\.0\.0\.1"):
            call()


# What goes wrong


def in_part(request: Handler) -> None:
    """Four bytes that were asked for by their range."""
    request.send_response(206)
    request.send_header("Content-Range", "bytes 0-3/100")
    request.send_header("Content-Length", "4")
    request.send_header("ETag", '"e"')
    request.send_header("Last-Modified", "Mon, 23 Nov 2026 03:13:33 GMT")
    request.end_headers()
    request.wfile.write(b"data")


def keep(request: Handler) -> None:
    """Do as an honest server: create once."""
    if request.headers.get("If-None-Match") and request.path in request.script.objects:
        request.send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        return
    request.script.objects[request.path] = request.body
    request.send(200)


def keep_and_hang_up(request: Handler) -> None:
    request.script.objects[request.path] = request.body
    request.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATHEKEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with serving() as script:
        monkeypatch.setenv("AWS_ENDPOINT_URL", script.url)
        yield script


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (fault(403, "AccessDenied"), Denied, "s3://bucket/in/x: access denied .*lack the permission"),
        (fault(401, ""), Denied, "access denied"),
        (fault(403, "SignatureDoesNotMatch"), Unavailable, "credentials are refused .*clock"),
        (fault(400, "ExpiredToken"), Unavailable, "credentials are refused .*renew"),
        (fault(404, "NoSuchBucket"), NotFound, "no such bucket at http://127.0.0.1"),
        (fault(404, "NoSuchKey"), NotFound, "s3://bucket/in/x does not exist"),
        (fault(301, "PermanentRedirect"), StoreError, "another region.*AWS_REGION"),
        (fault(418, "Teapot"), StoreError, "answers 418 Teapot"),
    ],
)
def test_errors_name_the_place_and_a_remedy_and_no_secret(
    server: Server, answer: Answer, kind: type[StoreError], message: str
) -> None:
    server.answers = [answer]
    store = Store.open("s3://bucket/in")
    calls = [lambda: store.get("x"), lambda: store.put("x", b""), lambda: store.create("x", b"")]
    for call in calls:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert kind is not StoreError or caught.type is StoreError
        text = f"{caught.value!r} {caught.value.__cause__} {caught.value.__suppress_context__}"
        assert SECRET not in text
        assert "AKIA" not in text
        assert text.endswith("True")
    if kind is not StoreError:
        with pytest.raises(StoreError) as caught:
            list(store.list())
        assert SECRET not in str(caught.value)
        assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    "trouble",
    [fault(500, "InternalError"), fault(503, "SlowDown"), fault(400, "RequestTimeout"), hang_up, cut_short],
)
def test_trouble_that_passes_is_waited_out(server: Server, trouble: Answer) -> None:
    store = Store.open("s3://bucket")
    server.answers = [fine()]
    store.get("x")
    server.answers = [trouble, trouble, fine()]
    assert store.get("x") == b"data"
    server.answers = [hang_up, in_part]
    assert store.get_range("x", 0, 4) == b"data"
    copied = fine(b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    server.answers = [trouble, fault(200, "InternalError"), copied]  # S3 may fail after it sent the status
    store.copy("x", "z")
    server.answers = [fault(500, "InternalError"), fault(503, "SlowDown"), keep]
    store.put("y", b"kept")
    assert server.objects["/bucket/y"] == b"kept"


@pytest.mark.parametrize(
    "trouble", [hang_up, fault(409, "ConditionalRequestConflict"), fault(503, "SlowDown")]
)
def test_a_create_without_a_clear_answer_is_made_again(server: Server, trouble: Answer) -> None:
    store = Store.open("s3://bucket")
    server.answers = [trouble, trouble, keep]
    assert store.create("x", b"mine")
    assert not store.create("x", b"other")
    assert server.objects["/bucket/x"] == b"mine"


def test_a_create_whose_answer_was_lost_is_there_for_its_author_to_read(server: Server) -> None:
    store = Store.open("s3://bucket")
    server.answers = [keep_and_hang_up, keep]
    assert not store.create("x", b"mine")
    assert server.objects["/bucket/x"] == b"mine"


def test_a_store_that_overwrites_what_exists_is_refused(server: Server) -> None:
    def careless(request: Handler) -> None:
        if request.command == "GET":
            request.send(200, request.script.objects[request.path])
        else:
            request.script.objects[request.path] = request.body
            request.send(200, b"<DeleteResult></DeleteResult>" if request.command == "POST" else b"")

    server.answers = [careless]
    with pytest.raises(StoreError, match="ignores If-None-Match"):
        Store.open("s3://bucket/out").probe()


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid", "https://127.0.0.1:1"]
)
def test_an_endpoint_that_is_not_there_is_named(server: Server, endpoint: str) -> None:
    store = Store.open("s3://bucket/in", StoreOptions(endpoint=endpoint))
    calls = [lambda: store.get("x"), lambda: list(store.list()), lambda: store.create("x", b""), store.probe]
    for call in calls:
        with pytest.raises(Unavailable, match=rf"cannot reach {endpoint}.*AWS_ENDPOINT_URL"):
            call()
    assert server.asked == []


def test_settings_that_cannot_be_are_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="profile 'nobody' is not in"):
        Store.open("s3://bucket", StoreOptions(profile="nobody")).get("x")
    with pytest.raises(StoreError, match="Invalid endpoint: nonsense"):
        Store.open("s3://bucket", StoreOptions(endpoint="nonsense")).get("x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="no credentials found for s3://bucket: set AWS_ACCESS_KEY_ID"):
        Store.open("s3://bucket").get("x")


def test_stores_of_one_job_have_their_own_endpoint_and_credentials(
    server: Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    server.answers = [fine()]
    assert Store.open("s3://bucket", StoreOptions(endpoint=server.url, anonymous=True)).get("x") == b"data"
    paid = StoreOptions(endpoint=server.url, requester_pays=True)
    assert Store.open("s3://bucket", paid).get("x") == b"data"
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    Store.open(s3_bucket).put("x", b"")
    assert [(method, path, bool(auth)) for method, path, auth in server.asked] == [
        ("GET", "/bucket/x", False),
        ("GET", "/bucket/x", True),
    ]
    assert "x-amz-request-payer" in server.asked[1][2]


def test_credentials_that_expire_are_renewed(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile whose process gives a new key each time, each about to expire."""
    count = tmp_path / "count"
    count.write_text("0")
    expires = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
    script = tmp_path / "credentials.py"
    script.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "n = int(count.read_text()) + 1\n"
        "count.write_text(str(n))\n"
        f"key = dict(Version=1, AccessKeyId=f'KEY{{n}}', SecretAccessKey='s', Expiration={expires!r})\n"
        "print(json.dumps(key))\n"
    )
    (tmp_path / "config").write_text(f"[profile short]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    server.answers = [fine()]
    store = Store.open("s3://bucket", StoreOptions(profile="short"))
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    used: set[str] = set()
    while len(used) < 3 and datetime.now(UTC) < deadline:
        store.get("x")
        used.add(server.asked[-1][2].partition("Credential=")[2].partition("/")[0])
    assert len(used) == 3
    count.write_text("no number")

    def until_it_fails() -> None:
        while datetime.now(UTC) < deadline:
            store.get("x")

    with pytest.raises(Unavailable, match="credentials could not be renewed") as caught:
        until_it_fails()
    assert "KEY" not in str(caught.value)


def test_google_and_azure_are_asked_for_the_same_things(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    options = StoreOptions(endpoint=server.url, anonymous=True)
    for scheme in ("gs", "az"):
        store = Store.open(f"{scheme}://bucket/in", options)
        server.answers = [fine()]
        data, info = store.get_with_info("a b.jpg")
        assert (data, info) == (b"data", ObjectInfo("a b.jpg", 4, "e"))
        assert unquote(server.asked[-1][1]).endswith("/bucket/in/a b.jpg")
        server.answers = [fault(404, "NoSuchKey")]
        with pytest.raises(NotFound, match=rf"{scheme}://bucket/in/x does not exist"):
            store.get("x")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(StoreError, match=r"az://bucket.*AZURE_STORAGE_"):
        Store.open("az://bucket").get("x")


def test_a_name_is_never_taken_for_an_answer(server: Server) -> None:
    server.answers = [fault(404, "NoSuchKey")]
    key = "non-2xx status code: 503 <Code>SlowDown</Code> credentials could not be renewed"
    with pytest.raises(NotFound):
        Store.open("s3://bucket").get(key)


def test_options_and_stores_hold_no_secret(server: Server) -> None:
    import pickle

    server.answers = [fine()]
    store = Store.open("s3://bucket")
    store.get("x")
    assert SECRET.encode() not in pickle.dumps(store)
    assert SECRET not in json.dumps([repr(store), str(store.options)])
