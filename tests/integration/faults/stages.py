"""Lanes at work side by side: a process each, with a cluster of its own, all in front of one S3 service."""

from __future__ import annotations

import multiprocessing
import os
import queue
import shutil
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from tests.integration.faults.ceph import Service, ceph, missing
from tests.integration.faults.judge import Rows
from tests.integration.faults.lane import lane
from tests.integration.faults.play import Result, Stage
from tests.integration.faults.schedule import Schedule
from tests.integration.faults.work import Work
from tests.motoserver import moto_server

Task = tuple[Schedule, str | None]
"""A schedule, and the bug that is planted."""


def play_all(tasks: Sequence[Task], lanes: int, service: Service) -> Iterator[Result]:
    """Results as they come. Raises RuntimeError when a lane itself breaks down."""
    context = multiprocessing.get_context("spawn")
    waiting: Any = context.Queue()
    done: Any = context.Queue()
    waiting.cancel_join_thread()  # what nobody takes any more need not be delivered
    works = {schedule.work.name: schedule.work for schedule, _ in tasks}
    for task in tasks:
        waiting.put(task)
    for _ in range(lanes):
        waiting.put(None)
    starting = context.Lock()
    processes = [
        context.Process(target=_work, args=(number, list(works.values()), service, starting, waiting, done))
        for number in range(lanes)
    ]
    for process in processes:
        process.start()
    try:
        for _ in tasks:
            yield _next(done, processes)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(done: Any, processes: Sequence[Any]) -> Result:
    while True:
        try:
            got: Result | str = done.get(timeout=1)
        except queue.Empty:
            if all(process.exitcode is not None for process in processes):
                raise RuntimeError("every lane has ended, and schedules are left") from None
            continue
        if isinstance(got, str):
            raise RuntimeError(got)
        return got


@contextmanager
def service() -> Iterator[Service]:
    """Ceph's gateway where its packages are installed, else moto's server."""
    if missing() is None:
        with ceph() as it:
            yield it
        return
    with moto_server() as url:
        yield Service("moto", url, "test", "test-secret-value")


def _work(
    number: int, works: Iterable[Work], service: Service, starting: Any, waiting: Any, done: Any
) -> None:
    """A lane's process. Lanes start one after the other: a cluster that starts wants all there is."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))
    try:
        with ExitStack() as stack:
            with starting:
                it = stack.enter_context(lane(service.environment()))
                stage = _prepare(it, service, f"faults-{number}", folder, works)
            while (task := waiting.get()) is not None:
                done.put(stage.play(*task))
    except Exception:
        done.put(traceback.format_exc())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(it: Any, service: Service, bucket: str, folder: Path, works: Iterable[Work]) -> Stage:
    """The inputs of jobs in the bucket, and the rows that undisturbed runs make of them."""
    import boto3
    from rich.console import Console

    from jobs.segment import run_job
    from jobs.spec import SegmentSpec
    from pipeline import tables
    from tests.tiny import tiny_weights

    weights = tiny_weights(folder)
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="weights.safetensors", Body=weights.read_bytes())
    expected = {}
    for work in works:
        inputs, output = folder / work.inputs, folder / f"undisturbed-{work.name}"
        inputs.mkdir()
        work.fill(inputs)
        for path in inputs.rglob("*.*"):
            client.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())
        fields = Stage.spec(work, str(inputs), str(output), str(weights), 1)
        run_job(SegmentSpec.model_validate(fields), local=True, console=Console(file=StringIO()))
        rows = expected[work.name] = Rows.of(tables.open(str(output)))
        assert rows.images.num_rows == work.rows
        assert rows.instances.num_rows > work.shards
    return Stage(it, service, bucket, weights, folder, expected)


def cores() -> int:
    """Lanes that keep this machine busy and no more."""
    return max(1, min(4, os.cpu_count() or 1))
