"""What workers are started with; what is told of those that died: the one at fault, and what became of it."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayActorError

from pipeline.samples import SampleError
from pipeline.trainer import Group, WorkersFailed, _cause, _fit, culprit, last_words


class Unhealthy(Exception):
    """As Ray Train's `WorkerHealthCheckFailedError`: its own words say nothing."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("A worker health check failed.\nWorker info: Worker(...)")
        self.health_check_failure = failure


class Raised(Exception):
    """As Ray Train wraps what a worker raises."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback\n  ...\n{cause}")
        self.cause = cause


class Failed(Exception):
    """As `TrainingFailedError`."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        self.worker_failures = failures


LOST = Raised(RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:1"))
KILLED = "The actor died.\nWorker exit type: SYSTEM_ERROR. It was killed by SIGKILL."
DEAD = Unhealthy(RayActorError(error_msg=KILLED))
OWN = Raised(SampleError("photos/1.jpg: there is no such image"))


@pytest.mark.parametrize(
    ("failures", "rank", "words"),
    [
        ({0: LOST, 1: DEAD}, 1, "killed by SIGKILL"),
        ({0: DEAD, 1: LOST}, 0, "killed by SIGKILL"),
        ({0: LOST, 1: OWN}, 1, "there is no such image"),
        ({0: LOST, 1: LOST, 2: Raised(ZeroDivisionError("division by zero"))}, 2, "division by zero"),
        ({0: LOST, 1: LOST}, 0, "Connection closed by peer"),
    ],
)
def test_who_only_lost_a_companion_is_not_named(
    failures: dict[int, Exception], rank: int, words: str
) -> None:
    found, error = culprit(failures)
    assert found == rank
    assert words in last_words(error)


def test_what_a_person_can_put_right_is_raised_as_it_is() -> None:
    assert isinstance(_cause(Failed({0: LOST, 1: OWN})), SampleError)
    told = _cause(Failed({0: LOST, 1: DEAD}))
    assert isinstance(told, WorkersFailed)
    assert "killed by SIGKILL" in str(told)
    assert isinstance(_cause(RuntimeError("the controller")), WorkersFailed)


class Trainer:
    """Stands for Ray Train: keeps what it was made of."""

    given: dict[str, Any]

    def __init__(self, work: object, **given: Any) -> None:
        Trainer.given = given

    def fit(self) -> None:
        pass


def test_workers_get_their_environment_memory_and_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.train.v2.torch.torch_trainer.TorchTrainer", Trainer)
    failed: list[BaseException] = []
    group = Group(2, cpus=3, gpus=1, memory=2**30, accelerator="L4", env={"AWS_REGION": "eu-north-1"})
    _fit(lambda _: None, {"mailbox": None}, group, failed)
    assert not failed
    scaling, run = Trainer.given["scaling_config"], Trainer.given["run_config"]
    wanted = {"CPU": 3, "GPU": 1, "memory": 2**30, "accelerator_type:L4": 0.001}
    assert scaling._resources_per_worker_not_none == wanted
    assert run.worker_runtime_env == {"env_vars": {"AWS_REGION": "eu-north-1"}}
