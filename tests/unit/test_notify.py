"""A webhook is told how a run ended: over real HTTP, without secrets, and never at the run's cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jobs import notify
from jobs.check import load_text
from jobs.conventions import JobSpec
from jobs.errors import ExitCode, Incomplete
from jobs.notify import notified


class Hook(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.told: list[dict[str, Any]] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/jobs"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(notify, "WAIT", 0.01)
    with Hook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def spec(hook: Hook, more: str = "") -> JobSpec:
    text = "kind: segment\nname: beds\ninput: {uri: in}\noutput: {uri: out}\nsecrets: [HOOK]\n"
    return load_text(f"{text}notify: {{{more or f'webhook: {hook.url}'}}}\n", "s")


def run(job: JobSpec, error: BaseException | None = None) -> None:
    with notified(job) as said:
        said["output"] = "s3://masks/beds"
        if error is not None:
            raise error


def test_a_failure_is_told_with_its_reason(hook: Hook) -> None:
    with pytest.raises(Incomplete):
        run(spec(hook), Incomplete("2 of 9 shards are missing\nrun it \x1b[31magain"))
    (told,) = hook.told
    assert (told["job"], told["outcome"], told["exit_code"]) == ("beds", "failed", ExitCode.INCOMPLETE)
    assert told["text"].startswith("condinst: beds failed after ")
    assert told["text"].endswith(": 2 of 9 shards are missing")
    assert told["message"].splitlines() == ["2 of 9 shards are missing", r"run it \x1b[31magain"]
    assert told["output"] == "s3://masks/beds"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (ZeroDivisionError("x"), 1)]
)
def test_whatever_ends_a_run_is_told(hook: Hook, error: BaseException, code: int) -> None:
    with pytest.raises(type(error)):
        run(spec(hook), error)
    assert hook.told[0]["exit_code"] == code


def test_a_good_end_is_told_where_asked_for(hook: Hook) -> None:
    run(spec(hook))
    assert hook.told == []
    run(spec(hook, f"webhook: {hook.url}, on: end"))
    assert hook.told[0]["outcome"] == "done"
    assert hook.told[0]["exit_code"] == 0


def test_a_webhook_that_fails_is_tried_again(hook: Hook, capsys: pytest.CaptureFixture[str]) -> None:
    hook.answers = [500, 503]
    run(spec(hook, f"webhook: {hook.url}, on: end"))
    assert len(hook.told) == 3
    assert capsys.readouterr().err == ""


def test_a_webhook_out_of_reach_costs_a_warning_that_does_not_name_it(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/secret-part")
    run(spec(hook, "webhook_secret: HOOK, on: end"))
    said = capsys.readouterr().err
    assert "the webhook under notify was not told: ConnectionRefusedError" in said
    assert "secret-part" not in said


def test_a_secret_address_is_used(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", hook.url)
    run(spec(hook, "webhook_secret: HOOK, on: end"))
    assert len(hook.told) == 1
