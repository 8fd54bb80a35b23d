"""What a spec says of limits, secrets and webhooks, as the installed command does it."""

from __future__ import annotations

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ExitCode
from tests import command
from tests.tiny import pictures, tiny_weights


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    pictures(tmp_path / "in", 400)
    spec = tmp_path / "job.yaml"
    spec.write_text(
        f"kind: segment\nname: limited\ninput: {{uri: {tmp_path / 'in'}}}\n"
        f"output: {{uri: {tmp_path / 'out'}}}\n"
        f"model: {{weights: {tiny_weights(tmp_path)}, max_instances: 10}}\nshards: {{images: 1}}\n"
    )
    return spec


def condinst(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return command.condinst(*arguments, env=variables, timeout=580)


def test_a_run_that_takes_too_long_ends_in_good_order_and_tells(spec: Path) -> None:
    told: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hook.server_address[1]}/x"
        done = condinst("run", spec, "--local", "--set", "timeout=1s", "--set", f"notify.webhook={url}")
        hook.shutdown()
    assert done.returncode == ExitCode.LIMIT, done.stderr
    assert "the run took longer than timeout, 1 s" in done.stderr
    assert "run the same command again" in done.stderr
    (message,) = told
    assert (message["job"], message["exit_code"]) == ("limited", ExitCode.LIMIT)
    rest = condinst("run", spec, "--local")
    assert rest.returncode == 0, rest.stderr
    assert "402 images" in rest.stdout.replace(",", "") or "images      402" in rest.stdout


def test_a_run_without_its_secrets_does_not_begin(spec: Path, tmp_path: Path) -> None:
    given = ("--set", "secrets=[FARM_KEY]")
    refused = condinst("run", spec, "--local", *given)
    assert refused.returncode == ExitCode.BAD_SPEC
    assert refused.stderr.strip().endswith(
        "FARM_KEY is not set in the environment of this command, or is empty; export it first"
    )
    assert not (tmp_path / "out").exists()
    # Looking takes none.
    assert condinst("plan", spec, *given).returncode == 0


def test_the_environment_of_a_spec_is_the_runs(spec: Path, tmp_path: Path) -> None:
    text = spec.read_text().replace(str(tmp_path / "in"), "s3://no-such-bucket/in")
    spec.write_text(f"{text}env: {{AWS_ENDPOINT_URL: 'http://127.0.0.1:9', AWS_MAX_ATTEMPTS: '1'}}\n")
    done = condinst("plan", spec, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_REGION="x")
    assert done.returncode == ExitCode.STORE
    assert "127.0.0.1:9" in done.stderr or "cannot be reached" in done.stderr


def test_a_rendered_job_is_printed_and_its_notes_beside(spec: Path) -> None:
    done = condinst("render", spec)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("---\napiVersion: v1\nkind: ConfigMap\n")
    assert "note: " in done.stderr
    refused = condinst("render", spec, "--target", "cronjob")
    assert refused.returncode == ExitCode.REFUSED
    assert refused.stdout == ""
