"""The pod of a CronJob creates one RayJob a day, whatever befalls it, and ends as the RayJob does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.create_rayjob import Api, made, scheduled, wait
from jobs.render import render
from tests.kube import refused

ROOT = Path(__file__).parents[2]
URL = "/apis/ray.io/v1/namespaces/farm/rayjobs"
MINUTES = 29_899_830  # 2026-11-06 18:30 UTC


class Kubernetes(ThreadingHTTPServer):
    """As much of Kubernetes' API as concerns RayJobs: it checks what it is given, and keeps it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rayjobs: dict[str, dict[str, Any]] = {}
        self.statuses: list[str | int] = []
        """What is answered when a RayJob's status is asked for, one after the other; numbers are errors."""


class Handler(BaseHTTPRequestHandler):
    server: Kubernetes

    def do_POST(self) -> None:
        rayjob = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = rayjob["metadata"]["name"]
        if self.headers["Authorization"] != "Bearer abc":
            self.answer(401)
        elif self.path != URL or refused(rayjob):
            self.answer(422)
        elif name in self.server.rayjobs:
            self.answer(409)
        else:
            self.server.rayjobs[name] = rayjob
            self.answer(201, rayjob)

    def do_GET(self) -> None:
        rayjob = self.server.rayjobs.get(self.path.removeprefix(f"{URL}/"))
        if rayjob is None:
            return self.answer(404)
        status = self.server.statuses.pop(0)
        if isinstance(status, int):
            return self.answer(status)
        return self.answer(200, {**rayjob, "status": {"jobDeploymentStatus": status} if status else {}})

    def answer(self, code: int, body: object = None) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    with Kubernetes() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api(kubernetes: Kubernetes, tmp_path: Path) -> Api:
    (tmp_path / "token").write_text("abc\n")
    return Api(f"http://127.0.0.1:{kubernetes.server_address[1]}", "farm", tmp_path)


@pytest.fixture
def rayjob() -> dict[str, Any]:
    maps = render(ROOT / "examples" / "nightly.yaml", (), "cronjob").manifests
    template = json.loads(maps[2]["data"]["rayjob.json"])
    return made(template, f"nightly-fields-{MINUTES}", "uid-1", "Asia/Tokyo")


def test_the_rayjob_is_its_jobs_own_and_knows_its_day(rayjob: dict[str, Any]) -> None:
    assert rayjob["metadata"]["name"] == f"nightly-fields-{MINUTES}"
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        day = group["template"]["spec"]["containers"][0]["env"][-1]
        assert day == {"name": "CONDINST_DATE", "value": "2026-11-07"}  # it is past midnight in Tokyo


def test_creating_twice_is_once(api: Api, kubernetes: Kubernetes, rayjob: dict[str, Any]) -> None:
    assert api.create(rayjob)
    assert not api.create(rayjob)
    assert len(kubernetes.rayjobs) == 1


@pytest.mark.parametrize(("ended", "code"), [("Complete", 0), ("Failed", 3), ("ValidationFailed", 3)])
def test_the_end_is_the_rayjobs(
    api: Api, kubernetes: Kubernetes, rayjob: dict[str, Any], ended: str, code: int
) -> None:
    api.create(rayjob)
    kubernetes.statuses = ["", "Initializing", 500, "Running", 503, "Running", ended]
    assert wait(api, rayjob["metadata"]["name"], look=0.01) == code


def test_a_deleted_rayjob_is_a_failed_one(api: Api) -> None:
    assert wait(api, "gone", look=0.01) == 3


def test_kubernetes_out_of_reach_ends_the_pod(
    api: Api, kubernetes: Kubernetes, rayjob: dict[str, Any]
) -> None:
    api.create(rayjob)
    kubernetes.statuses = [500] * 1000
    with pytest.raises(OSError, match="500"):
        wait(api, rayjob["metadata"]["name"], look=0.01, patience=0.05)


def test_a_job_started_by_hand_is_of_today() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert scheduled("by-hand-1", now) == now
    assert scheduled(f"x-{MINUTES}", now) == datetime(2026, 11, 6, 18, 30, tzinfo=UTC)
