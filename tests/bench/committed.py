"""Status and resume at 100,000 committed shards on the local disk, records folded and not.

`python -m tests.bench.committed` runs it alone; with `--s3` the output lies on an S3 server, and it is
requests to it that are counted, records folded. Records are as a worker writes them; the plan's own file is
not there, as nothing reads it.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console

from jobs.status import show_status
from jobs.tally import Tally
from pipeline.commit import Commit, TableFile, Work, commit_key
from pipeline.folding import LEDGER
from pipeline.ledger import Ledger
from pipeline.manifest import Plan, load_plans
from pipeline.plan import PlanFile, plan_bytes, plan_key
from pipeline.storage import Store, StoreOptions
from tests.bench.harness import report
from tests.bench.s3 import s3_server

SHARDS = 100_000
IMAGES = 1000
"""In a shard."""


def output(store: Store, shards: int) -> None:
    """Make it an output whose shards are all committed but one."""
    Ledger(store).claim({"name": "scale", "fingerprint": "f" * 64, "settings": {}})
    file = PlanFile("_plans/0/manifest-00000.parquet", shards * IMAGES, "0" * 64, shards, 1)
    plan = Plan(0, "0" * 16, (file,), shards * IMAGES, IMAGES, shards, shards * IMAGES * 100_000)
    store.put(plan_key(0), plan_bytes(plan))

    def put(numbered: tuple[int, str]) -> None:
        number, shard = numbered
        if number < shards - 1:
            store.put(commit_key(shard), _record(number, shard).to_json().encode())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, enumerate(plan.shard_ids())))


def _record(number: int, shard: str) -> Commit:
    stages = ("fetch", "decode", "prepare", "model", "turn", "encode", "write")
    return Commit(
        shard=shard,
        attempt=f"{1_700_000_000_000 + number}-0123abcd",
        fingerprint="f" * 64,
        files={name: TableFile.of(shard.encode(), IMAGES) for name in ("instances", "images")},
        counts={"ok": 990, "empty": 8, "corrupt": 2},
        classes={f"class {index}": 10 + number % 7 for index in range(20)},
        instances=20 * (10 + number % 7),
        bytes=IMAGES * 100_000,
        committed=1.7e9 + number,
        work=Work(
            f"host-{number % 64}", 1.7e9, 1.7e9 + number, 50.0, 125, 0, None, dict.fromkeys(stages, 1.5)
        ),
    )


def resume(store: Store) -> int:
    """What a run asks of the ledger before its first shard; returns how many shards are pending."""
    ledger = Ledger(store)
    ledger.repair()
    done = ledger.revisions()
    Tally.of(ledger.records(done))
    return len(ledger.pending(load_plans(store), done))


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


def measure(shards: int = SHARDS) -> dict[str, float]:
    """Seconds of status and resume, before and after folding, and of folding itself."""
    found: dict[str, float] = {"shards": shards}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        store = Store.open(str(Path(name) / "out"))
        output(store, shards)
        for case in ("unfolded", "folded"):
            console = Console(file=io.StringIO())
            found[f"status_{case}_s"] = timed(partial(show_status, store.uri, StoreOptions(), console))
            found[f"resume_{case}_s"] = timed(partial(resume, store))
            if case == "unfolded":
                found["fold_s"] = timed(Ledger(store).fold)
        assert resume(store) == 1
        files = list(store.list(LEDGER))
        found |= {"files": len(files), "folder_bytes": sum(file.size for file in files)}
    return found


def count_requests(shards: int) -> dict[str, object]:
    """Requests of status and resume on S3, beside the records that are not folded."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        (Path(name) / "log").open("wb") as log,
        s3_server(log) as bucket,
    ):
        store = Store.open(f"{bucket}/out")
        output(store, shards)
        folded = Ledger(store).fold()
        found: dict[str, object] = {"shards": shards, "unfolded": shards - 1 - folded}
        cases = {
            "status": partial(show_status, store.uri, StoreOptions(), Console(file=io.StringIO())),
            "resume": partial(resume, store),
        }
        for case, work in cases.items():
            before = _lines(log.name)
            found[f"{case}_s"] = timed(work)
            found[f"{case}_requests"] = _lines(log.name) - before
    return found


def _lines(path: str) -> int:
    return len(Path(path).read_bytes().splitlines())


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--s3", action="store_true")
    options.add_argument("--shards", type=int, default=SHARDS)
    given = options.parse_args()
    if given.s3:
        report("committed-s3", None, count_requests(given.shards))
    else:
        report("committed", None, measure(given.shards))
