"""Several processes that train one model, on Ray Train: started, watched, started again when one dies.

Ray Train places the workers, makes their process group (gloo on processors, nccl on GPUs) and replaces the
whole group when a worker or its node dies. What they have learned is in the checkpoints of the output
(`pipeline.checkpoints`), from which every new group goes on, with however many workers there are then.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster import cluster

TIMEOUT = 1800
"""Seconds that a process waits for the others: one of them may be measuring."""
_POLL = 0.5
_ENDING = 30.0
"""Seconds that Ray Train's thread gets to end once Ray has: left in its code, it could abort the exit."""
_OURS = ("condinst", "pipeline", "jobs")
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|peer", re.IGNORECASE)
"""What a process says whose companion is gone."""


class WorkersFailed(Exception):
    """The workers died more often than allowed; the message has the last one's words."""


@dataclass(frozen=True)
class Group:
    """The workers of a training."""

    count: int
    cpus: int = 1
    gpus: float = 0
    least: int | None = None
    """Go on with so many when there is no room for all. Default: `count`."""
    max_failures: int = 3
    """How often the group is started again after a worker's death."""
    memory: int = 0
    """Bytes that Ray reserves for each; 0 for none."""
    accelerator: str | None = None
    """Type of their GPUs, as Ray names it."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of their processes, which a cluster that is joined started without them."""

    @property
    def gpus_held(self) -> float:
        """What Ray reserves for one of them."""
        return self.gpus

    @property
    def each(self) -> dict[str, float]:
        """All that Ray reserves for one of them, but the type of its GPU."""
        held = {"CPU": float(self.cpus), "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in held.items() if amount}


def run_group(
    work: Callable[[dict[str, Any]], None],
    payload: Mapping[str, Any],
    group: Group,
    say: Callable[[str], None],
    *,
    address: str | None = None,
) -> None:
    """Run `work(payload)` in every worker, to its end; on a Ray cluster that is joined or started.

    The payload also gets `mailbox`: what a worker posts there (`post`) is said here. Raises ClusterTooSmall,
    the workers' own exception where it is one that a person can put right, and otherwise WorkersFailed.
    """
    least = group.least or group.count
    with ExitStack() as last, cluster(group, least, address=address, spare=0):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside who reads it: on another node it would be lost with that.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0)(_Mailbox)
        mailbox = actor.options(scheduling_strategy=here).remote()
        failed: list[BaseException] = []
        runner = threading.Thread(
            target=_fit, args=(work, {**payload, "mailbox": mailbox}, group, failed), daemon=True
        )
        runner.start()
        last.callback(runner.join, _ENDING)  # after the cluster, which an interrupt leaves while it works
        while runner.is_alive():
            runner.join(_POLL)
            for text in ray.get(mailbox.take.remote()):
                say(text)
        for text in ray.get(mailbox.take.remote()):
            say(text)
        if failed:
            raise failed[0]


def post(mailbox: Any, text: str) -> None:
    """Send a worker's words to who runs the group; does not wait."""
    mailbox.put.remote(text)


class _Mailbox:
    """Words on their way to the driver, in order."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def put(self, text: str) -> None:
        self._texts.append(text)

    def take(self) -> list[str]:
        taken, self._texts = self._texts, []
        return taken


def _fit(
    work: Callable[[dict[str, Any]], None], payload: dict[str, Any], group: Group, failed: list[BaseException]
) -> None:
    """Run Ray Train; what it raises goes into `failed`, since this is a thread of its own."""
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchConfig

    # What `ray.train` hands out at run time; its own names have the types of its first version.
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    count = group.count if group.least is None else (group.least, group.count)
    # Ray's own records of the run; the checkpoints go to the output.
    folder = tempfile.mkdtemp(prefix="condinst-train-")
    try:
        TorchTrainer(
            work,
            train_loop_config=payload,
            torch_config=TorchConfig(backend="nccl" if group.gpus else "gloo", timeout_s=TIMEOUT),
            scaling_config=ScalingConfig(
                num_workers=count,
                use_gpu=group.gpus > 0,
                resources_per_worker=group.each,
                accelerator_type=group.accelerator,
            ),
            run_config=RunConfig(
                storage_path=folder,
                failure_config=FailureConfig(max_failures=group.max_failures),
                callbacks=[_teller(payload["mailbox"])],
                worker_runtime_env={"env_vars": dict(group.env)} if group.env else None,
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        ).fit()
    except TrainingFailedError as error:
        failed.append(_cause(error))
    except BaseException as error:
        failed.append(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _teller(mailbox: Any) -> Any:
    """Tells of every death of a worker; called in Ray Train's controller."""
    from ray.train import UserCallback

    class Teller(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            rank, error = culprit(worker_exceptions)
            post(mailbox, f"worker {rank} ended ({last_words(error)}); going back to the last checkpoint\n")

    return Teller()


def culprit(failures: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """The worker that others were lost with, by rank, and what became of it: they only lost a connection."""
    bare = {rank: _bare(error) for rank, error in failures.items()}
    rank = min(bare, key=lambda rank: (_guilt(bare[rank]), rank))
    return rank, bare[rank]


def last_words(error: BaseException) -> str:
    """The last line of an exception that may carry a whole traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:500]


def _bare(error: BaseException) -> BaseException:
    """What Ray's wrappers hold: a check of a worker's health that failed is the worker's death."""
    for name in ("health_check_failure", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return _bare(inner)
    return error


def _guilt(error: BaseException) -> int:
    """0 for what this project raises, then a death, then the rest; last, a lost companion."""
    from ray.exceptions import RayActorError

    if type(error).__module__.split(".")[0] in _OURS:
        return 0
    if isinstance(error, RayActorError):
        return 1
    return 3 if _LOST.search(str(error)) else 2


def _cause(error: BaseException) -> BaseException:
    """The worker's own exception, if it is no mere loss of another worker."""
    failures = getattr(error, "worker_failures", {})
    _, raised = culprit(failures) if failures else (0, _bare(error))
    if type(raised).__module__.split(".")[0] in _OURS:
        return raised
    return WorkersFailed(
        f"the workers died too often (workers.max_failures); one of them said: {last_words(raised)}"
    )
