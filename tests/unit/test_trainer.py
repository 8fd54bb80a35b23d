"""What workers are started with; what is told of those that died: the one at fault, and what became of it."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError

from jobs.errors import JobError
from pipeline.checkpoints import CheckpointError
from pipeline.samples import SampleError
from pipeline.storage import StoreError
from pipeline.trainer import (
    Group,
    Patience,
    WorkersFailed,
    _attending,
    _cause,
    _fit,
    _teller,
    culprit,
    last_words,
    recurs,
)


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
        ({0: DEAD, 1: FloatingPointError("11 steps in a row")}, 1, "11 steps in a row"),
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


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (SampleError("photos/1.jpg: there is no such image"), False),
        (JobError("the checkpoint does not fit"), False),
        (CheckpointError("was written by another run"), False),
        (FloatingPointError("11 steps in a row"), False),
        (StoreError("s3://b: it does not answer"), True),
        (RuntimeError("CUDA out of memory"), True),
        (RayActorError(error_msg=KILLED), True),
    ],
)
def test_what_would_happen_again_ends_the_training_at_once(error: Exception, again: bool) -> None:
    """Raised in Ray's controller, it is the controller's failure, after which no group is started."""
    said: list[str] = []
    mailbox = SimpleNamespace(put=SimpleNamespace(remote=said.append))
    teller = _teller(mailbox)
    if again:
        teller.after_exception(None, {1: error})
        assert "going back to the last checkpoint" in said[0]
        return
    with pytest.raises(type(error)):
        teller.after_exception(None, {0: LOST, 1: error})
    assert not said
    raised = ControllerError(error)
    assert DefaultFailurePolicy(FailureConfig(max_failures=3)).make_decision(raised) == FailureDecision.RAISE
    assert _cause(raised) is error
    assert recurs(error)


def test_waiting_for_room_is_told_once_a_period_and_ends() -> None:
    patience = Patience(2, most=300, every=60)
    told = [patience.word(idle) for idle in (0, 59, 60, 61, 119, 121, 3, 62)]
    assert [bool(text) for text in told] == [False, False, True, False, False, True, False, True]
    assert told[2] == "waiting for room for 2 workers, or for their start: 1 min\n"
    with pytest.raises(WorkersFailed, match="no room for 2 workers for 5 min"):
        patience.word(301)


def test_a_worker_gives_signs_of_life_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    signs, begun = [], threading.Event()
    monkeypatch.setattr("ray.get", lambda told: told)

    def sign() -> bool:
        signs.append(threading.current_thread())
        begun.set()
        return False

    def work(payload: dict[str, Any]) -> None:
        assert begun.wait(60)
        raise ZeroDivisionError

    mailbox = SimpleNamespace(sign=SimpleNamespace(remote=sign))
    with pytest.raises(ZeroDivisionError):
        _attending(work)({"mailbox": mailbox})
    signs[0].join(60)
    assert not signs[0].is_alive()


def test_a_worker_learns_that_it_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([False, True])
    monkeypatch.setattr("ray.get", lambda answer: answer)
    monkeypatch.setattr("pipeline.trainer._SIGN_EVERY", 0.01)
    mailbox = SimpleNamespace(sign=SimpleNamespace(remote=lambda: next(told, True)))

    def work(payload: dict[str, Any]) -> None:
        for _ in range(6000):
            if payload["stopping"]():
                return
            time.sleep(0.01)
        raise AssertionError("nobody said so")

    _attending(work)({"mailbox": mailbox})


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
