"""Training on Ray Train with real workers: as many as one likes, killed as one likes, the same training."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from condinst import weightsfile
from jobs.check import load_text
from jobs.errors import ExitCode, Interrupted
from jobs.scenes.dataset import write_dataset
from jobs.train import train_job
from jobs.train_files import SIGN_KEY, has, read_log
from jobs.train_spec import TrainSpec
from jobs.train_status import look
from pipeline.stopping import request_cancel
from pipeline.storage import Store
from pipeline.trainer import Group, post, run_group
from tests.integration.local_ray import ray_processes

# They start processes that import torch and Ray, which takes minutes on a busy machine.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(1200),
]

LOSSES = ("class", "box", "quality", "mask")
SLOW = "learning_rate: 0.0002"
TEXT = """\
kind: train
name: workers
data:
  train: {{uri: {data}/images, annotations: {data}/truth.json}}
  val: {{uri: {data}/val/images, annotations: {data}/val/truth.json}}
model:
  backbone: {{depth: 18, stem_channels: 8, width: 8, norm: {norm}}}
  fpn: {{channels: 16}}
  head: {{num_convs: 1, groups: 4}}
  mask: {{branch_channels: 8, branch_convs: 1}}
  input: {{resize: {{rule: fixed_scale, scale: 1.0}}}}
loss: {{max_mask_instances: 12}}
training:
  {{steps: {steps}, warmup_steps: 5, precision: float32, checkpoint_steps: {every}, measure_steps: {steps}}}
batch: 5
augment: {{size: 96}}
samples: 0
output: {{uri: {output}}}
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, range(6), 160)
    write_dataset(folder / "val", range(6), 160)
    return folder


def text_of(
    data: object, output: object, workers: int, steps: int = 20, every: int = 20, norm="group"
) -> str:
    text = TEXT.format(data=data, output=output, steps=steps, every=every, norm=norm)
    return text + (f"workers: {{count: {workers}}}\n" if workers else "")


def trained(text: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    train_job(load_text(text, "spec.yaml", (), TrainSpec), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def losses(output: object) -> list[list[float]]:
    return [[step[name] for name in LOSSES] for step in read_log(Store.open(str(output)))]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_worker_and_two_give_the_same_losses(scenes: Path, tmp_path: Path, norm: str) -> None:
    """A batch of five is uneven for two workers, and has more positives than enter the mask loss.

    At the usual rate roundings grow, once one of them moves a unit over the kink of its ReLU: to 2e-4 by step
    20 with batch norms, to 7e-3 with group norms; so the rate is lower.
    """
    change = ("steps: 20", f"steps: 20, {SLOW}")
    said = trained(text_of(scenes, tmp_path / "two", 2, norm=norm).replace(*change, 1))
    trained(text_of(scenes, tmp_path / "one", 0, norm=norm).replace(*change, 1))
    assert "with 2 workers" in said
    assert "20 steps of 5" in said
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 20
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert one[0] != pytest.approx(one[-1], abs=1e-2)
    measured = [json.loads((tmp_path / name / "best.json").read_text()) for name in ("one", "two")]
    assert measured[0]["images"] == measured[1]["images"]
    assert measured[0]["ap"] == pytest.approx(measured[1]["ap"], abs=0.02)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["workers"] == 2


def test_workers_leave_the_same_images_out_as_one_alone(scenes: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scenes, tmp_path / "scenes")
    for part in ("", "val"):
        sorted((folder / part / "images").iterdir())[1].write_bytes(b"no image")
    said = trained(text_of(folder, tmp_path / "two", 2, steps=8, every=4))
    trained(text_of(folder, tmp_path / "one", 0, steps=8, every=4))
    assert said.count("data.train: left out: ") == said.count("data.val: left out: ") == 1
    for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    for name in ("one", "two"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert (summary["bad_images"], summary["bad_val_images"]) == (1, 1)
        assert json.loads((tmp_path / name / "best.json").read_text())["images"] == 5


def test_a_lost_node_leaves_a_smaller_group_that_goes_on(
    scenes: Path, s3_bucket: str, tmp_path: Path
) -> None:
    """A head with room for one worker and a node with room for another, which is taken away."""
    from ray.cluster_utils import Cluster

    output = f"{s3_bucket}/node"
    spec = tmp_path / "spec.yaml"
    spec.write_text(text_of(scenes, output, 2, steps=16, every=4).replace("count: 2", "count: 2, least: 1"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        driver = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("training_driver.py"), spec],
            env=environment, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert reached(output, 4, driver)
        cluster.remove_node(node, allow_graceful=False)
        said, _ = driver.communicate(timeout=600)
    finally:
        cluster.shutdown()
    assert driver.returncode == 0, said
    assert "going back to the last checkpoint" in said
    assert "going on from step" in said
    assert json.loads(Store.open(output).get("summary.json"))["workers"] == 1
    trained(text_of(scenes, tmp_path / "whole", 0, steps=16, every=4))
    for a, b in zip(losses(tmp_path / "whole"), losses(output), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_cancel_ends_all_workers_with_the_state_kept(scenes: Path, tmp_path: Path) -> None:
    """The driver hears it and tells the workers, which end after one and the same step."""
    output = str(tmp_path / "out")

    def ask() -> None:
        store = Store.open(output)
        deadline = time.monotonic() + 600
        while not has(store, SIGN_KEY) and time.monotonic() < deadline:
            time.sleep(0.2)
        request_cancel(store)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted, match="cancelled on request") as told:
        trained(text_of(scenes, output, 2, steps=100_000, every=100_000))
    asking.join()
    assert told.value.code == ExitCode.CANCELLED
    seen = look(Store.open(output))
    assert seen is not None
    assert (seen.state, seen.last_sign) == ("interrupted", None)
    assert seen.checkpoint


def reached(output: str, step: int, driver: subprocess.Popen[str]) -> bool:
    """Wait until a driver's training has put the checkpoint of a step."""
    store, deadline = Store.open(output), time.monotonic() + 600
    while time.monotonic() < deadline and driver.poll() is None:
        if any(info.key.endswith(f"{step:09d}.json") for info in store.list("checkpoints/")):
            return True
        time.sleep(0.05)
    return False


def test_a_killed_worker_is_replaced_and_the_training_ends_as_if_nothing_had_been(
    scenes: Path, s3_bucket: str, tmp_path: Path
) -> None:
    output = f"{s3_bucket}/killed"
    killed: list[int] = []

    def kill() -> None:
        store, deadline = Store.open(output), time.monotonic() + 600
        while time.monotonic() < deadline:
            if any(info.key.endswith("000000004.json") for info in store.list("checkpoints/")):
                pid = max(ray_processes(os.environ["RAY_TMPDIR"], "RayTrainWorker"))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    said = trained(text_of(scenes, output, 2, steps=16, every=4))
    killer.join()
    assert killed
    assert "going back to the last checkpoint" in said
    assert "going on from step" in said
    trained(text_of(scenes, tmp_path / "whole", 0, steps=16, every=4))
    whole, joined = losses(tmp_path / "whole"), losses(output)
    assert len(joined) == 16
    for a, b in zip(whole, joined, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_killed_job_started_again_joins_its_curve(scenes: Path, s3_bucket: str, tmp_path: Path) -> None:
    """First with two workers, then with one, in another process."""
    output = f"{s3_bucket}/job"
    spec = tmp_path / "spec.yaml"
    spec.write_text(text_of(scenes, output, 2, steps=16, every=4))
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": f"/tmp/r{os.getpid()}"}
    driver = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("training_driver.py"), spec],
        env=environment, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    store = Store.open(output)
    assert reached(output, 8, driver)
    for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
        with suppress(psutil.NoSuchProcess):  # some end when another has
            process.kill()
    driver.wait()
    assert not any(info.key == "summary.json" for info in store.list(""))
    said = trained(text_of(scenes, output, 0, steps=16, every=4))
    assert "going on from step" in said
    trained(text_of(scenes, tmp_path / "whole", 0, steps=16, every=4))
    whole, joined = losses(tmp_path / "whole"), losses(output)
    assert len(joined) == 16
    for a, b in zip(whole, joined, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    ours = tmp_path / "last.safetensors"
    ours.write_bytes(store.get("last.safetensors"))
    assert weightsfile.read_notes(ours)["step"] == "16"


def test_sigterm_to_the_command_ends_all_workers_with_a_checkpoint(scenes: Path, tmp_path: Path) -> None:
    spec, output = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(text_of(scenes, output, 2, steps=5000, every=5000))
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": f"/tmp/r{os.getpid()}"}
    command = [Path(sys.executable).with_name("condinst"), "train", spec]
    driver = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert driver.stdout is not None
    assert any(line.startswith("step ") for line in driver.stdout)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 143, said
    assert "stopped by SIGTERM" in said
    (record,) = (output / "checkpoints").glob("*.json")
    assert 1 < int(record.stem) < 5000


def test_what_recurs_ends_the_training_without_another_try() -> None:
    """The first worker raises; the second waits for it in a sum over both, for ever if need be."""
    said: list[str] = []

    def work(payload: dict[str, Any]) -> None:
        import torch

        from condinst import parallel

        post(payload["mailbox"], "began\n")
        if parallel.rank() == 0:
            raise FloatingPointError("11 steps in a row")
        parallel.total(torch.ones(1))

    with pytest.raises(FloatingPointError, match="11 steps in a row"):
        run_group(work, {}, Group(2, max_failures=3), said.append)
    assert "".join(said).count("began") == 2
    assert "going back" not in "".join(said)


def test_workers_of_a_cluster_that_stands_get_the_environment_and_memory_of_the_job() -> None:
    said: list[str] = []

    def work(payload: dict[str, Any]) -> None:
        import ray

        held = ray.get_runtime_context().get_assigned_resources()
        post(payload["mailbox"], f"{os.environ.get('CONDINST_TOLD')} {held.get('memory')};")

    run_group(work, {}, Group(2, memory=50 * 2**20, env={"CONDINST_TOLD": "yes"}), said.append)
    told = "".join(text for text in said if not text.startswith("waiting"))
    assert told.split(";")[:2] == [f"yes {float(50 * 2**20)}"] * 2
