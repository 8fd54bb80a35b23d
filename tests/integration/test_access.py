"""Who asks for what, over HTTP: keys that end within a job, keys of input and output, and what is denied.

A door in front of the S3 server lets only those through who hold the right key.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from jobs.check import load_text
from jobs.segment import run_job
from pipeline import credentials, tables
from pipeline.storage import Denied, Store, StoreOptions, Unavailable
from tests.guard import ANONYMOUS, Asked, Refusal, guarding
from tests.tiny import encoded, picture

DENIED = (403, "AccessDenied")
EXPIRED = (400, "ExpiredToken")
NAMES = [f"{number:02d}.png" for number in range(12)]


@pytest.fixture
def inputs(s3_bucket: str) -> str:
    """Twelve small images in a bucket of their own."""
    store = Store.open(f"{s3_bucket}/in")
    for number, name in enumerate(NAMES):
        store.put(name, encoded(picture(number, 64, 64)))
    return store.uri


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes `~/.aws/config`, and takes away the keys that the environment holds."""

    def write(**profiles: str) -> Path:
        path = tmp_path / "aws-config"
        path.write_text("".join(f"[profile {name}]\n{text}\n" for name, text in profiles.items()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        return path

    return write


def keys(access_key: str) -> str:
    return f"aws_access_key_id = {access_key}\naws_secret_access_key = test-secret-value"


def process(folder: Path, lives: timedelta) -> str:
    """A profile whose process hands out KEY1, KEY2, ..., each said to live so long."""
    (folder / "count").write_text("0")
    script = folder / "keys.sh"
    script.write_text(
        # By a move: two stores may run it at a time, and neither may find the file empty.
        f"n=$(($(cat {folder}/count) + 1)); echo $n > {folder}/count.$$\n"
        f"mv {folder}/count.$$ {folder}/count\n"
        f"ends=$(date -u -d '+{int(lives.total_seconds())} seconds' +%Y-%m-%dT%H:%M:%SZ)\n"
        'printf \'{"Version": 1, "AccessKeyId": "KEY%s", "SecretAccessKey": "s", "SessionToken": "t", '
        '"Expiration": "%s"}\' $n $ends\n'
    )
    return f"credential_process = sh {script}"


def job(weights: Path, source: dict[str, Any], output: dict[str, Any]) -> dict[str, int]:
    """Run a job in this process; returns how many images ended how."""
    spec = {
        "kind": "segment",
        "name": "access",
        "input": source,
        "model": {"weights": str(weights)},
        "output": output,
        "shards": {"images": 3},
    }
    checked = load_text(json.dumps(spec), "spec")
    accounts = run_job(checked, local=True, console=Console(file=io.StringIO()))
    return {status: count for status, count in accounts["statuses"].items() if count}


def by(*names: str) -> Callable[[Asked], Refusal | None]:
    """Lets those keys through."""
    return lambda asked: None if asked.key in names else DENIED


def test_input_and_output_have_their_own_endpoints_and_keys(
    s3_endpoint: str, inputs: str, weights: Path, profiles: Callable[..., Path]
) -> None:
    profiles(reader=keys("READER"), writer=keys("WRITER"))
    with guarding(s3_endpoint, by("READER")) as there, guarding(s3_endpoint, by("WRITER")) as here:
        out = inputs.replace("/in", "/out")
        done = job(
            weights,
            {"uri": inputs, "endpoint": there.url, "profile": "reader"},
            {"uri": out, "endpoint": here.url, "profile": "writer"},
        )
        assert sum(done.values()) == len(NAMES)
        assert set(done) <= {"ok", "empty"}
        assert not there.refused
        assert not here.refused
        assert there.seen["READER"] >= len(NAMES)
        assert here.seen["WRITER"] > 0
        run = tables.open(out, StoreOptions(endpoint=here.url, profile="writer"))
        assert run.images().num_rows == len(NAMES)
        with pytest.raises(Denied, match="lack the permission"):
            Store.open(inputs, StoreOptions(endpoint=there.url, profile="writer")).get(NAMES[0])


def test_a_public_input_is_read_without_a_key_into_a_private_output(
    s3_endpoint: str, inputs: str, weights: Path, profiles: Callable[..., Path], tmp_path: Path
) -> None:
    profiles(writer=keys("WRITER"))
    with guarding(s3_endpoint, by(ANONYMOUS)) as there, guarding(s3_endpoint, by("WRITER")) as here:
        done = job(
            weights,
            {"uri": inputs, "endpoint": there.url, "anonymous": True},
            {"uri": inputs.replace("/in", "/out"), "endpoint": here.url, "profile": "writer"},
        )
        assert sum(done.values()) == len(NAMES)
        assert not there.refused
        assert not here.refused


def test_who_pays_says_so_in_every_request_to_the_input_and_in_none_to_the_output(
    s3_endpoint: str, inputs: str, weights: Path
) -> None:
    def payer(expected: str | None) -> Callable[[Asked], Refusal | None]:
        return lambda asked: None if asked.headers.get("x-amz-request-payer") == expected else DENIED

    with guarding(s3_endpoint, payer("requester")) as there, guarding(s3_endpoint, payer(None)) as here:
        done = job(
            weights,
            {"uri": inputs, "endpoint": there.url, "requester_pays": True},
            {"uri": inputs.replace("/in", "/out"), "endpoint": here.url},
        )
        assert sum(done.values()) == len(NAMES)
        assert not there.refused
        assert not here.refused


def test_a_job_outlives_keys_that_end_when_they_said_they_would(
    s3_endpoint: str, inputs: str, weights: Path, profiles: Callable[..., Path], tmp_path: Path
) -> None:
    """Each key says that it ends in two minutes, and is taken for the last one handed out and no other."""
    profiles(short=process(tmp_path, timedelta(minutes=2)))
    newest = 0

    def judge(asked: Asked) -> Refusal | None:
        nonlocal newest
        number = int(asked.key.removeprefix("KEY"))
        newest = max(newest, number)
        return None if number > newest - 20 else EXPIRED  # threads that asked a moment ago

    with guarding(s3_endpoint, judge) as guard:
        place = {"endpoint": guard.url, "profile": "short"}
        done = job(weights, {"uri": inputs, **place}, {"uri": inputs.replace("/in", "/out"), **place})
        assert sum(done.values()) == len(NAMES)
        assert set(done) <= {"ok", "empty"}
        assert len(guard.seen) >= 5


def test_a_job_outlives_keys_that_are_refused_before_their_time(
    s3_endpoint: str, inputs: str, weights: Path, profiles: Callable[..., Path], tmp_path: Path
) -> None:
    """Each key says that it lives for a day, and is refused after fifteen requests."""
    profiles(revoked=process(tmp_path, timedelta(days=1)))
    with guarding(s3_endpoint, lambda asked: EXPIRED if guard.seen[asked.key] >= 15 else None) as guard:
        place = {"endpoint": guard.url, "profile": "revoked"}
        done = job(weights, {"uri": inputs, **place}, {"uri": inputs.replace("/in", "/out"), **place})
        assert sum(done.values()) == len(NAMES)
        assert set(done) <= {"ok", "empty"}
        assert len(guard.seen) >= 5
        assert sum(guard.refused.values()) >= 4


def test_keys_that_another_program_writes_anew_are_found(
    s3_endpoint: str, inputs: str, profiles: Callable[..., Path]
) -> None:
    path = profiles(rotated=keys("OLD"))
    valid = "OLD"
    with guarding(
        s3_endpoint, lambda asked: None if asked.key == valid else (403, "InvalidAccessKeyId")
    ) as guard:
        store = Store.open(inputs, StoreOptions(endpoint=guard.url, profile="rotated"))
        expected = store.get(NAMES[0])
        valid = "NEW"
        with pytest.raises(Unavailable, match="credentials are refused"):
            store.get(NAMES[0])
        path.write_text(path.read_text().replace("OLD", "NEW"))
        assert store.get(NAMES[0]) == expected
        assert [info.key for info in store.list()] == NAMES
        valid = "NEWER"
        path.write_text(path.read_text().replace("NEW", "NEWER"))
        assert [info.key for info in store.list()] == NAMES
        valid = "NEWEST"
        path.write_text(path.read_text().replace("NEWER", "NEWEST"))
        assert store.head(NAMES[0]).size == len(expected)


def test_new_keys_are_used_at_once_where_looking_them_up_takes_no_time(
    s3_endpoint: str, inputs: str, profiles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore asks for no key within a tenth of a second; a fast machine finds new ones in it."""
    path, valid = profiles(rotated=keys("OLD")), "OLD"
    with guarding(
        s3_endpoint, lambda asked: None if asked.key == valid else (403, "InvalidAccessKeyId")
    ) as guard:
        store = Store.open(inputs, StoreOptions(endpoint=guard.url, profile="rotated"))
        store.get(NAMES[0])
        made = credentials._client(boto3.Session(), "unused", "us-east-1", StoreOptions(endpoint=guard.url))
        monkeypatch.setattr(credentials, "_client", lambda *_: made)
        for new in ("FIRST", "SECOND", "THIRD"):
            store.get(NAMES[0])
            path.write_text(path.read_text().replace(valid, new))
            valid = new
            assert store.head(NAMES[0]).key == NAMES[0]


def test_what_is_kept_from_us_gone_or_changed_since_the_plan_costs_its_own_row(
    s3_endpoint: str, inputs: str, weights: Path
) -> None:
    """Planned with all of it there; then one is forbidden, one gone, one another file of the same size."""
    store, listed = Store.open(inputs), False
    old = store.head("02.png").etag

    def judge(asked: Asked) -> Refusal | None:
        nonlocal listed
        if asked.path.endswith("/in/00.png"):
            return DENIED
        if not listed and asked.method == "GET" and asked.path.endswith(".png"):
            listed = True
            store.delete(["01.png"])
            data = bytearray(store.get("02.png"))
            data[-20] ^= 1
            store.put("02.png", bytes(data))
        return None

    with guarding(s3_endpoint, judge) as guard:
        out = inputs.replace("/in", "/out")
        done = job(weights, {"uri": inputs, "endpoint": guard.url}, {"uri": out})
    assert done["missing"] == 3
    assert sum(done.values()) == len(NAMES)
    rows = {row["image_id"]: row for row in tables.open(out).images().to_pylist()}
    assert [rows[name]["status"] for name in NAMES[:3]] == ["missing"] * 3
    assert "access denied" in rows["00.png"]["error"]
    assert "does not exist" in rows["01.png"]["error"]
    assert f"changed since the plan (etag {old} -> {store.head('02.png').etag})" in rows["02.png"]["error"]
    assert {rows[name]["status"] for name in NAMES[3:]} <= {"ok", "empty"}
    assert rows["03.png"]["etag"] == store.head("03.png").etag


def test_an_output_that_may_not_be_written_is_told_before_anything_is_done(
    s3_endpoint: str, inputs: str, weights: Path
) -> None:
    read_only = lambda asked: None if asked.method in ("GET", "HEAD") else DENIED  # noqa: E731
    with guarding(s3_endpoint, read_only) as guard, pytest.raises(Denied, match="lack the permission"):
        job(weights, {"uri": inputs}, {"uri": inputs.replace("/in", "/out"), "endpoint": guard.url})
    assert list(Store.open(inputs.replace("/in", "/out")).list()) == []
