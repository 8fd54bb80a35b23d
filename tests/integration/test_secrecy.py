"""Whatever a job leaves anywhere holds no credential: tables, records, output, Ray's logs and metadata."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.errors import explain
from pipeline.manifest import InputSource, freeze, read_shard
from pipeline.storage import Store, StoreError, StoreOptions
from tests.guard import guarding
from tests.tiny import encoded, picture

ROOT = Path(__file__).parents[2]
KEY, SECRET, TOKEN = "AKIADISTINCTKEY00001", "dIsTiNcTsEcReT/0123456789+abc", "dIsTiNcTtOkEn//1234=="
PASSWORD = "hUnTeR-TwO-distinct"
SECRETS = (SECRET, TOKEN, PASSWORD, KEY)


def held(text: str | bytes) -> list[str]:
    """The secrets that a text holds."""
    data = text if isinstance(text, bytes) else text.encode(errors="replace")
    return [secret for secret in SECRETS if secret.encode() in data]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def environment(s3_endpoint: str, s3_bucket: str, ray_folder: Path, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "RAY_TMPDIR": str(ray_folder),
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }


def drive(spec: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    path = folder / "spec.yaml"
    path.write_text(spec)
    command = [sys.executable, "-m", "tests.integration.secrecy_driver", str(path)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=400)


def everything(store: Store) -> Iterator[tuple[str, bytes]]:
    """Every object of a store as bytes, and every value of its tables."""
    for info in store.list():
        data = store.get(info.key)
        yield info.key, data
        if info.key.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            yield f"rows of {info.key}", f"{table.to_pylist()} {table.schema.metadata}".encode()


def test_a_job_on_ray_leaves_no_credential_anywhere(
    environment: dict[str, str],
    s3_bucket: str,
    s3_endpoint: str,
    weights: Path,
    ray_folder: Path,
    tmp_path: Path,
) -> None:
    """Two images are kept from it, so that there are errors to look through as well."""
    inputs = Store.open(f"{s3_bucket}/in")
    for number in range(8):
        inputs.put(f"{number}.png", encoded(picture(number, 64, 64)))
    odd = ("/6.png", "/7.png")
    denied = {odd[0]: (403, "AccessDenied"), odd[1]: (403, f"Denied{SECRET[:8]}")}
    with guarding(s3_endpoint, lambda asked: denied.get(asked.path[-6:])) as guard:
        spec = (
            f"kind: segment\nname: secret\ninput: {{uri: {inputs.uri}, endpoint: '{guard.url}'}}\n"
            f"model: {{weights: {weights}}}\noutput: {{uri: {s3_bucket}/out}}\nshards: {{images: 4}}\n"
        )
        done = drive(spec, tmp_path, environment)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert guard.seen[KEY] >= 6, "the job used the key that is looked for"
    told = done.stdout + done.stderr
    assert b"ShardActor" in done.stdout, "what Ray holds was printed"
    assert held(told) == []
    left = list(everything(Store.open(f"{s3_bucket}/out")))
    assert any(b'"spec"' in data for name, data in left if name == "job.json")
    assert any(b"access denied" in data for name, data in left if name.startswith("rows of images/"))
    assert [name for name, data in left if held(data)] == []
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".log" for path in logs)
    assert [str(path) for path in logs if held(path.read_bytes())] == []


ATTEMPTS = [
    ("s3://{key}:{password}@bucket/in", None),
    ("s3://bucket/in?X-Amz-Credential={key}&X-Amz-Signature={password}", None),
    ("az://container/in?sv=2024&sig={password}", None),
    ("https://{key}:{password}@host/in", None),
    ("https://host/in?X-Amz-Signature={password}", None),
    ("s3://bucket/in", "http://{key}:{password}@127.0.0.1:1"),
    ("s3://bucket/in", "http://{key}:{password}@[bad"),
    ("gs://bucket/in", "http://{key}:{password}@127.0.0.1:1"),
    ("az://bucket/in", "http://{key}:{password}@127.0.0.1:1"),
]


def refusal(uri: str, endpoint: str | None = None) -> str:
    """All that is told of a URI that is refused."""
    with pytest.raises(StoreError) as caught:
        Store.open(uri, StoreOptions(endpoint=endpoint)).get("x")
    return f"{caught.value!r} {caught.value.__cause__} {explain(caught.value)}"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("uri", "endpoint"), ATTEMPTS)
def test_credentials_within_a_uri_or_an_endpoint_are_refused_and_not_repeated(
    uri: str, endpoint: str | None
) -> None:
    uri, endpoint = (text and text.format(key=KEY, password=PASSWORD) for text in (uri, endpoint))
    assert held(refusal(str(uri), endpoint)) == []


@pytest.mark.usefixtures("keys")
def test_credentials_within_the_environments_endpoint_are_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY}:{PASSWORD}@127.0.0.1:1")
    told = refusal("s3://bucket/in")
    assert "holds credentials" in told
    assert held(told) == []


def test_a_manifest_of_signed_urls_leaves_no_signature_in_the_plan(tmp_path: Path) -> None:
    uris = [
        f"https://host/a.jpg?X-Amz-Signature={PASSWORD}",
        f"s3://bucket/a.jpg?X-Amz-Signature={PASSWORD}",
        f"s3://{KEY}:{PASSWORD}@bucket/b.jpg",
        f"https://{KEY}:{PASSWORD}@host/c.jpg",
        f"az://container/d.jpg?sv=1&sig={PASSWORD}",
        "s3://bucket/what?is=this&and=that.jpg",
    ]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *uris]))
    output = Store.open(str(tmp_path / "out"))
    plan = freeze([InputSource(str(tmp_path / "list.csv"), manifest=True)], output, 10, 0)
    refs = read_shard(output, plan, 0)
    assert [ref.problem is None for ref in refs] == [False] * 5 + [True]
    assert held(repr(refs)) == []
    assert [name for name, data in everything(output) if held(data)] == []


def test_what_a_credential_process_prints_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "keys.sh"
    (tmp_path / "config").write_text(f"[profile broken]\ncredential_process = sh {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for text in (
        f"echo {PASSWORD} >&2; exit 1",
        f'echo \'{{"SecretAccessKey": "{SECRET}"\'',
        f"echo {PASSWORD}",
    ):
        script.write_text(text)
        with pytest.raises(StoreError) as caught:
            Store.open("s3://bucket/in", StoreOptions(profile="broken")).get("x")
        assert held(f"{caught.value!r} {caught.value.__cause__}") == []
