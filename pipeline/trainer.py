"""Several processes that train one model, on Ray Train: started, watched, started again when one dies.

Ray Train places the workers, makes their process group (gloo on processors, nccl on GPUs) and replaces the
whole group when a worker or its node dies. What they have learned is in the checkpoints of the output
(`pipeline.checkpoints`), from which every new group goes on, with however many workers there are then.
What a worker raises that a new group would raise again ends the training at once (`recurs`).
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster import cluster
from pipeline.objects import StoreError

TIMEOUT = 1800
"""Seconds that a process waits for the others: one of them may be measuring."""
NODE_WAIT = 1800.0
"""Seconds that a group may wait for room: a node that is gone may not come back."""
_SAY_EVERY = 60.0
"""Seconds without a sign of life between two words about it."""
_SIGN_EVERY = 2.0
_POLL = 0.5
_ENDING = 30.0
"""Seconds that Ray Train's thread gets to end once Ray has: left in its code, it could abort the exit."""
_OURS = ("condinst", "pipeline", "jobs")
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|peer", re.IGNORECASE)
"""What a process says whose companion is gone."""


class WorkersFailed(Exception):
    """The workers died more often than allowed, or found no room; the message says what became of them."""


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
    stop: Callable[[], bool] = lambda: False,
    watching: Callable[[], AbstractContextManager[object]] = nullcontext,
    look: Callable[[float], None] = lambda idle: None,
) -> None:
    """Run `work(payload)` in every worker, to its end; on a Ray cluster that is joined or started.

    The payload also gets `mailbox`: what a worker posts there (`post`) is said here; and `stopping`, a
    function that says, within seconds, whether `stop` said here that the work is to end. `watching` is around
    it all once there is a cluster, whose start takes over the handling of signals. `look` is called several
    times a second with the seconds since a worker's last sign of life; what it raises ends the run.

    Raises ClusterTooSmall, the workers' own exception where it is one that a person can put right,
    FloatingPointError, and otherwise WorkersFailed; that too when no worker has been at work for `NODE_WAIT`
    seconds.
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
        last.enter_context(watching())
        patience = Patience(least)
        alive = True
        while alive:
            if stop():
                mailbox.stop.remote()
            runner.join(_POLL)
            alive = runner.is_alive()  # before the last words are taken
            texts, idle = ray.get(mailbox.take.remote())
            for text in texts:
                say(text)
            if alive:
                look(idle)
                if text := patience.word(idle):
                    say(text)
        if failed:
            raise failed[0]


def post(mailbox: Any, text: str) -> None:
    """Send a worker's words to who runs the group; does not wait."""
    mailbox.put.remote(text)


class _Mailbox:
    """Words on their way to the driver, in order; when a worker last gave a sign of life; when to end."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._sign = time.monotonic()
        self._ending = False

    def put(self, text: str) -> None:
        self._texts.append(text)

    def sign(self) -> bool:
        """Take a sign of life; returns whether the work is to end."""
        self._sign = time.monotonic()
        return self._ending

    def stop(self) -> None:
        self._ending = True

    def take(self) -> tuple[list[str], float]:
        """The words, and the seconds since the last sign of life."""
        taken, self._texts = self._texts, []
        return taken, time.monotonic() - self._sign


class Patience:
    """What is said while no worker is at work, and when there is an end to it."""

    def __init__(self, workers: int, most: float = NODE_WAIT, every: float = _SAY_EVERY) -> None:
        self._workers, self._most, self._every = workers, most, every
        self._said = 0

    def word(self, idle: float) -> str | None:
        """What to say after `idle` seconds without a sign of life: once a period. Raises WorkersFailed."""
        if idle >= self._most:
            raise WorkersFailed(
                f"there was no room for {self._workers} workers for {self._most / 60:.0f} min: bring nodes, "
                "or ask for fewer workers (workers.least)"
            )
        periods, before = int(idle / self._every), self._said
        self._said = periods
        if periods <= before:
            return None
        return f"waiting for room for {self._workers} workers, or for their start: {idle / 60:.0f} min\n"


def _attending(work: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """The same, with a sign of life every few seconds for as long as it takes, which tells when to end."""

    def attend(payload: dict[str, Any]) -> None:
        import ray
        from ray.exceptions import RayError

        ended, stopping = threading.Event(), threading.Event()

        def signs() -> None:
            while not ended.is_set():
                with suppress(RayError):  # where the driver is gone, Ray ends this process
                    if ray.get(payload["mailbox"].sign.remote()):
                        stopping.set()
                ended.wait(_SIGN_EVERY)

        threading.Thread(target=signs, daemon=True).start()
        try:
            work({**payload, "stopping": stopping.is_set})
        finally:
            ended.set()

    return attend


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
            _attending(work),
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
    """Tells of every death of a worker, and ends the training where going back does not help.

    Called in Ray Train's controller, which takes what is raised here for its own failure: it starts no group
    again then, stops the one there is, and has `fit` raise it.
    """
    from ray.train import UserCallback

    class Teller(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            rank, error = culprit(worker_exceptions)
            if recurs(error):
                raise error
            post(mailbox, f"worker {rank} ended ({last_words(error)}); going back to the last checkpoint\n")

    return Teller()


def culprit(failures: Mapping[int, BaseException]) -> tuple[int, BaseException]:
    """The worker that others were lost with, by rank, and what became of it: they only lost a connection."""
    bare = {rank: _bare(error) for rank, error in failures.items()}
    rank = min(bare, key=lambda rank: (_guilt(bare[rank]), rank))
    return rank, bare[rank]


def recurs(error: BaseException) -> bool:
    """Whether a new group would end the same way: in a training that diverges, or as this project says.

    Of what this project raises a store that does not answer is left out: it may the next time.
    """
    return isinstance(error, FloatingPointError) or (_is_ours(error) and not isinstance(error, StoreError))


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _OURS


def last_words(error: BaseException) -> str:
    """The last line of an exception that may carry a whole traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:500]


def _bare(error: BaseException) -> BaseException:
    """What Ray's wrappers hold: a check of a worker's health that failed is the worker's death."""
    for name in ("controller_failure", "health_check_failure", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return _bare(inner)
    return error


def _guilt(error: BaseException) -> int:
    """0 for what this project raises, then a death, then the rest; last, a lost companion."""
    from ray.exceptions import RayActorError

    if recurs(error) or _is_ours(error):
        return 0
    if isinstance(error, RayActorError):
        return 1
    return 3 if _LOST.search(str(error)) else 2


def _cause(error: BaseException) -> BaseException:
    """The worker's own exception, if it is no mere loss of another worker."""
    failures = getattr(error, "worker_failures", {})
    _, raised = culprit(failures) if failures else (0, _bare(error))
    if recurs(raised) or _is_ours(raised):
        return raised
    return WorkersFailed(
        f"the workers died too often (workers.max_failures); one of them said: {last_words(raised)}"
    )
