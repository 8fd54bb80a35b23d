"""What is told of workers that died: the one at fault, and what became of it."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError

from pipeline.samples import SampleError
from pipeline.trainer import WorkersFailed, _cause, culprit, last_words


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
