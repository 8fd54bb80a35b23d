"""`deploy/local.sh`: several nodes on one machine, closed by a token, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import ExitCode
from tests.integration.nodes import free_ports
from tests.tiny import pictures, tiny_weights

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "local.sh"
COMMAND = Path(sys.executable).with_name("condinst")
NODES = """
import json, ray
ray.init(log_to_driver=False, logging_level="ERROR")
print(json.dumps([node["Resources"].get("CPU") for node in ray.nodes() if node["Alive"]]))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment that reaches a cluster of a head and two nodes."""
    folder = tempfile.mkdtemp(prefix="lc-", dir="/tmp")
    own = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "CLUSTER": f"{folder}/c",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    try:
        up = started(own)
        assert up.returncode == 0, up.stderr
        said = subprocess.run([SCRIPT, "env"], env=own, capture_output=True, text=True, check=True).stdout
        pairs = [
            word.split("=", 1) for line in said.splitlines() for word in line.removeprefix("export ").split()
        ]
        yield {**own, **dict(pairs)}
    finally:
        subprocess.run([SCRIPT, "down"], env=own, timeout=200, check=True)
        shutil.rmtree(folder)
    assert not [line for line in processes() if f"{folder}/c" in line]


def started(own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Bring the cluster up; once more, at other ports, where one was taken in between. Fills `own`."""
    for _ in range(2):
        own["PORT"], own["DASHBOARD_PORT"] = map(str, free_ports(2))
        up = subprocess.run(
            [SCRIPT, "up", "2"], env=own, capture_output=True, text=True, timeout=280, check=False
        )
        if up.returncode == 0:
            break
        subprocess.run([SCRIPT, "down"], env=own, timeout=200, check=True)
    return up


def processes() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def job(folder: Path, workers: str) -> Path:
    pictures(folder / "in", 30)
    spec = folder / "job.yaml"
    spec.write_text(
        f"kind: segment\nname: nodes\ninput: {{uri: {folder / 'in'}}}\n"
        f"output: {{uri: {folder / 'out'}}}\n"
        f"model: {{weights: {tiny_weights(folder)}}}\nshards: {{images: 1}}\nworkers: {workers}\n"
    )
    return spec


def commits(folder: Path) -> int:
    return len(list((folder / "out" / "commits").glob("*.json")))


def test_a_job_uses_its_nodes(cluster: dict[str, str], tmp_path: Path) -> None:
    nodes = subprocess.run(
        [sys.executable, "-c", NODES], env=cluster, capture_output=True, text=True, timeout=100, check=False
    )
    assert json.loads(nodes.stdout.splitlines()[-1]) == [1.0, 1.0, 1.0], nodes.stderr
    done = subprocess.run(
        [COMMAND, "run", job(tmp_path, "{count: 2}")],
        env=cluster, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert commits(tmp_path) == 32


def test_a_job_waits_for_nodes_where_it_is_told_that_they_come(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    spec = job(tmp_path, "{count: 1, cpus: 3}")
    refused = subprocess.run(
        [COMMAND, "run", spec], env=cluster, capture_output=True, text=True, timeout=100, check=False
    )
    assert refused.returncode == ExitCode.REFUSED
    assert "the cluster's nodes hold 0" in refused.stderr
    waiting = subprocess.Popen(
        [COMMAND, "run", spec], env={**cluster, "CONDINST_NODE_PATIENCE": "200"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # What an autoscaler sees, and does.
        wait_for_demand(cluster)
        subprocess.run([SCRIPT, "add"], env={**cluster, "CPUS": "3"}, timeout=100, check=True)
        _, said = waiting.communicate(timeout=300)
    finally:
        waiting.kill()
    assert waiting.returncode == 0, said
    assert commits(tmp_path) == 32


def wait_for_demand(cluster: dict[str, str]) -> None:
    """Until the cluster's state names the workers that have no node."""
    ray = Path(sys.executable).with_name("ray")
    for _ in range(30):
        said = subprocess.run(
            [ray, "status", "--address", cluster["RAY_ADDRESS"]],
            env=cluster, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if "'CPU': 3.0" in said.stdout:
            return
    raise AssertionError(said.stdout)


def test_nobody_without_the_token_gets_in(cluster: dict[str, str], tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("0" * 64)
    done = subprocess.run(
        [sys.executable, "-c", NODES], env={**cluster, "RAY_AUTH_TOKEN_PATH": str(other)},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Alive" not in done.stdout
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o077 == 0


def test_it_does_not_start_twice(cluster: dict[str, str]) -> None:
    again = subprocess.run(
        [SCRIPT, "up"], env=cluster, capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 1
    assert "is there already" in again.stderr
