"""Jobs submitted to a Ray cluster of a head and two worker nodes, by token, from other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import tables
from tests.integration.nodes import BIN, Nodes, nodes
from tests.tiny import pictures, tiny_weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
IMAGES = 24
NAMES = (
    *("images_total", "instances_total", "input_bytes_total", "stage_seconds_total", "model_seconds_total"),
    *("shards", "workers"),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as running:
        yield running


def condinst(cluster: Nodes, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in a process of its own."""
    done = subprocess.run(
        [BIN / "condinst", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**cluster.environment, "COLUMNS": "200", **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def spec_of(folder: Path, name: str = "fields", **changes: object) -> Path:
    """A job over 24 pictures, two of them broken, in shards of four on two workers."""
    if not (folder / "photos").exists():
        pictures(folder / "photos", IMAGES - 2)
        tiny_weights(folder)
    spec: dict[str, object] = {
        "kind": "segment",
        "name": name,
        "input": {"uri": str(folder / "photos")},
        "model": {"weights": str(folder / "tiny-0.safetensors"), "score_threshold": 0.5, "max_instances": 10},
        "output": {"uri": str(folder / f"out-{name}")},
        "shards": {"images": 4},
        "workers": {"count": 2},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(spec))
    return path


def test_submitting_twice_is_one_job(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    code, out, err = condinst(cluster, "submit", spec, "--address", cluster.address)
    assert code == 0, out + err
    assert " submitted" in err
    assert f"{IMAGES}/{IMAGES} images" in out, "the log is followed to its end"
    run = tables.open(str(tmp_path / "out-fields"))
    assert run.images().num_rows == IMAGES
    summary = (tmp_path / "out-fields" / "summary.json").read_bytes()
    code, out, err = condinst(cluster, "submit", spec, "--address", cluster.address)
    assert (code, out) == (0, "")
    assert "is done already: nothing was started" in err
    assert (tmp_path / "out-fields" / "summary.json").read_bytes() == summary
    code, out, _ = condinst(cluster, "jobs", "status", spec, "--address", cluster.address)
    assert code == 0
    assert "succeeded" in out
    assert str(tmp_path / "out-fields") in out


def test_two_submitters_at_a_time_start_one_job(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "twins")
    command = [BIN / "condinst", "submit", spec, "--address", cluster.address, "--detach"]
    twins = [
        subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [twin.communicate(timeout=200)[1] for twin in twins]
    assert [twin.returncode for twin in twins] == [0, 0], said
    assert sum("at work already" in words or "done already" in words for words in said) == 1, said
    assert condinst(cluster, "jobs", "logs", spec, "-f", "--address", cluster.address)[0] == 0
    listed = condinst(cluster, "jobs", "list", "--address", cluster.address)[1]
    assert listed.count(" succeeded") >= 1
    assert listed.count("twins-") == 1


def test_cancelled_and_killed_jobs_resume(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "slow", shards={"images": 1}, workers={"count": 1})
    one, images = next((tmp_path / "photos").rglob("*.png")), 1500
    for number in range(images - IMAGES):
        os.link(one, tmp_path / "photos" / f"more-{number:04}.png")
    output, address = tmp_path / "out-slow", ("--address", cluster.address)
    assert condinst(cluster, "submit", spec, "--detach", *address)[0] == 0
    wait_for_commits(output, 1)
    code, out, err = condinst(cluster, "jobs", "cancel", spec, *address)
    assert (code, "stopped; what is committed stays" in out) == (0, True), out + err
    committed = {path.name: path.stat().st_mtime_ns for path in (output / "commits").glob("*.json")}
    assert 0 < len(committed) < images
    log = condinst(cluster, "jobs", "logs", spec, *address)[1]
    assert "stopping within 25 s" in log, "it was let end in good order"
    # Again; the driver is killed this time.
    code, _, err = condinst(cluster, "submit", spec, "--detach", *address)
    assert code == 0
    assert "-2 submitted" in err
    wait_for_commits(output, len(committed) + 1)
    kill_driver(cluster)
    code, _, err = condinst(cluster, "jobs", "logs", spec, "-f", *address)
    assert code != 0, "the log of a job that was killed ends with an error"
    assert "submit it again to go on" in err
    code, out, err = condinst(cluster, "submit", spec, *address)
    assert code == 0, out + err
    assert "-3 submitted" in err
    kept = {name: (output / "commits" / name).stat().st_mtime_ns for name in committed}
    assert kept == committed, "what was committed is not done again"
    assert tables.open(str(output)).images().num_rows == images
    assert condinst(cluster, "verify", output, "--full")[0] == 0


def test_metrics_add_up_to_the_job(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "measured", shards={"images": 1}, workers={"count": 1})
    one = next((tmp_path / "photos").rglob("*.png"))
    for number in range(600):
        os.link(one, tmp_path / "photos" / f"more-{number:03}.png")
    output, address = tmp_path / "out-measured", ("--address", cluster.address)
    assert condinst(cluster, "submit", spec, "--detach", *address)[0] == 0
    wait_for_commits(output, 1)
    # The agent hands out what it has when it is asked: a first shard may hold no instance, a gauge may be
    # between two of its states. So it is asked until all of it is there.
    wanted, deadline = {f"ray_condinst_{name}" for name in NAMES}, time.monotonic() + 240
    while True:
        values = scraped(cluster, output)
        shards = sum(v for n, v in values.items() if n.startswith("ray_condinst_shards"))
        names = {name.partition("{")[0] for name in values}
        if names == wanted and shards == 600 + IMAGES:
            break
        assert time.monotonic() < deadline, (names, shards)
        time.sleep(0.5)
    images = sum(v for n, v in values.items() if n.startswith("ray_condinst_images_total"))
    assert 0 < images <= len(list((output / "commits").glob("*.json")))
    assert condinst(cluster, "jobs", "cancel", spec, *address)[0] == 0


def scraped(cluster: Nodes, output: Path) -> dict[str, float]:
    """What Prometheus would get of an output: value by metric and labels."""
    with urllib.request.urlopen(cluster.metrics, timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if f'output="{output}"' in line]
    return {line.partition(" ")[0]: float(line.split()[-1]) for line in lines}


def test_a_train_job(cluster: Nodes, tmp_path: Path) -> None:
    from jobs.scenes import write_dataset

    parts = {"train": range(4), "val": range(4, 6)}
    data = {
        name: {
            "uri": str(tmp_path / name / "images"),
            "annotations": str(write_dataset(tmp_path / name, seeds, 96)),
        }
        for name, seeds in parts.items()
    }
    spec = tmp_path / "train.yaml"
    spec.write_text(
        json.dumps(
            {
                "kind": "train",
                "name": "learn",
                "data": data,
                "model": {"weights": str(tiny_weights(tmp_path))},
                "training": {"steps": 2},
                "augment": {"size": 64},
                "batch": 1,
                "samples": 0,
                "output": {"uri": str(tmp_path / "trained")},
            }
        )
    )
    code, out, err = condinst(cluster, "submit", spec, "--address", cluster.address)
    assert code == 0, out + err
    assert list((tmp_path / "trained").rglob("*.safetensors"))
    assert "done already" in condinst(cluster, "submit", spec, "--address", cluster.address)[2]


SCHEDULER = """
import os, signal, sys, time
from datetime import datetime, timedelta, UTC
from pathlib import Path
from jobs.schedule import Scheduler
from jobs.schedule_runners import ClusterRunner
from jobs.schedule_serve import read_entries
from jobs.schedule_state import ScheduleState

class Dying(ClusterRunner):
    def start(self, entry, run):
        place = super().start(entry, run)
        if sys.argv[4] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return place

state = ScheduleState(Path(sys.argv[2]))
scheduler = Scheduler(state, Dying(state, sys.argv[3]))
begin = datetime(2026, 10, 25, 0, 29, 30, tzinfo=UTC)
scheduler.serve(read_entries([Path(sys.argv[1])]), begin)
while not (ended := state.runs("nightly", ("done", "failed"))):
    scheduler.tick(begin + timedelta(minutes=1))
    time.sleep(0.5)
print(ended[0].state, ended[0].attempt, ended[0].place)
"""


def test_a_scheduler_that_dies_after_it_submitted_starts_no_second_job(
    cluster: Nodes, tmp_path: Path
) -> None:
    when = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    output = {"uri": str(tmp_path / "out-{{ date }}")}
    spec = spec_of(tmp_path, "nightly", schedule=when, output=output)
    command = [sys.executable, "-c", SCHEDULER, spec, tmp_path / "s.sqlite", cluster.address]
    killed = subprocess.run([*command, "die"], env=cluster.environment, timeout=200, check=False)
    assert killed.returncode == -9
    done = subprocess.run(
        [*command, "live"], env=cluster.environment, timeout=280, check=True, capture_output=True, text=True
    )
    state, attempt, place = done.stdout.split()
    assert (state, attempt) == ("done", "1")
    assert place.startswith("nightly-20261025T003000Z-")
    listed = condinst(cluster, "jobs", "list", "--address", cluster.address)[1]
    assert listed.count("nightly-20261025T003000Z-") == 1
    assert tables.open(str(tmp_path / "out-2026-10-25")).images().num_rows == IMAGES


def test_the_jobs_exit_code_is_the_commands(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "strict", max_failed=0)
    code, out, err = condinst(cluster, "submit", spec, "--address", cluster.address)
    assert code == 7, out + err
    assert "max_failed is 0" in out


def test_who_is_turned_away_is_told_why(cluster: Nodes, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "closed")
    address = ("--address", cluster.address)
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    code, _, err = condinst(cluster, "submit", spec, *address, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert (code, "RAY_AUTH_TOKEN" in err) == (3, True), err
    code, _, err = condinst(cluster, "submit", spec, "--address", "http://127.0.0.1:9")
    assert (code, "cannot be reached" in err) == (3, True), err
    code, _, err = condinst(cluster, "jobs", "status", "nobody-123", *address)
    assert (code, "knows no job nobody-123" in err) == (2, True), err


def test_another_version_on_the_cluster_is_refused(cluster: Nodes, tmp_path: Path) -> None:
    from jobs.check import load_job
    from jobs.submit import Submission

    submission = Submission.of(load_job(spec_of(tmp_path, "old")))
    code = (
        "import sys\nfrom jobs.cluster_jobs import JobServer\n"
        "JobServer(sys.argv[1]).submit(sys.argv[2], sys.argv[3], {'working_dir': sys.argv[4]}, {})\n"
    )
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "job.yaml").write_text(submission.text)
    entrypoint = submission.entrypoint.rpartition(" ")[0] + " 0.0.1"
    arguments = [cluster.address, submission.id, entrypoint, str(tmp_path / "w")]
    subprocess.run([sys.executable, "-c", code, *arguments], env=cluster.environment, check=True, timeout=100)
    code_, out, _ = condinst(cluster, "jobs", "logs", submission.id, "-f", "--address", cluster.address)
    assert code_ == 5
    assert "submitted by condinst 0.0.1" in out
    assert not (tmp_path / "out-old").exists()


def wait_for_commits(output: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(list((output / "commits").glob("*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_driver(cluster: Nodes) -> None:
    """SIGKILL to the run that is at work on the cluster."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        mine = environment.get("RAY_AUTH_TOKEN_PATH") == cluster.environment["RAY_AUTH_TOKEN_PATH"]
        if mine and "--require-version" in command and "run" in command:
            os.kill(process.pid, 9)
            return
    raise AssertionError("no driver is at work")
