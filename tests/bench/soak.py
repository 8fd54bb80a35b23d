"""One long job of many small images: memory, open files and threads of driver and worker over its length.

`condinst run` on Ray with one worker and a tiny model; the images come over HTTP, the tables go to disk. Both
processes are looked at from outside while they work. `make bench BENCH=soak`; IMAGES=2000 makes it shorter.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench import harness
from tests.scripted import Handler, serving
from tests.tiny import encoded, picture, tiny_weights

IMAGES = int(os.environ.get("IMAGES", "20000"))
SHARD = 250
SIDE = 64
DIFFERENT = 200
"""Pictures that are made; the images repeat them."""
WARM = 0.2
"""Share of the job that is left out of the slopes: caches fill, allocators find their size."""
EVERY = 1.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Look:
    """A process at one moment."""

    images: int
    """Committed by then."""
    memory: float
    """Anonymous resident memory, MB: what the process itself allocated."""
    files: int
    threads: int


@contextmanager
def images() -> Iterator[str]:
    """An S3 endpoint that has every image there may be; yields its URL."""
    files = [encoded(picture(seed, SIDE, SIDE), "JPEG") for seed in range(DIFFERENT)]

    def answer(request: Handler) -> None:
        request.script.asked.clear()
        number = int(request.path.rpartition("/")[2].partition(".")[0])
        request.send(200, files[number % DIFFERENT])

    with serving() as server:
        server.answers = [answer]
        yield server.url


def write_spec(folder: Path, endpoint: str) -> Path:
    """A job over a list of the images."""
    (folder / "list.csv").write_text("\n".join(["uri", *(f"s3://soak/{n}.jpg" for n in range(IMAGES))]))
    spec = folder / "soak.yaml"
    spec.write_text(
        "kind: segment\nname: soak\n"
        f"input: {{uri: {folder}/list.csv, endpoint: '{endpoint}', anonymous: true}}\n"
        f"model: {{weights: {tiny_weights(folder)}, score_threshold: 0.5}}\noutput: {{uri: {folder}/out}}\n"
        f"shards: {{images: {SHARD}}}\nbatch: {{images: 16}}\n"
    )
    return spec


def look_at(pid: int, done: int) -> Look:
    """Raises OSError when the process is gone."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Look(
        images=done,
        memory=int(status["RssAnon"].split()[0]) / 1024,
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def worker_below(pid: int) -> int | None:
    """The process of the pool's actor that descends from `pid`."""
    parents, actors = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if "ShardActor" in (entry / "cmdline").read_text():
                actors.append(int(entry.name))
        except OSError:
            continue
    for actor in actors:
        above: int | None = actor
        while above is not None and above != pid:
            above = parents.get(above)
        if above == pid:
            return actor
    return None


def watch(driver: subprocess.Popen[bytes], output: Path) -> dict[str, list[Look]]:
    """Look at driver and worker until the driver ends."""
    looks: dict[str, list[Look]] = {"driver": [], "worker": []}
    worker, told = None, 0
    while driver.poll() is None:
        time.sleep(EVERY)
        commits = output / "commits"
        done = SHARD * len(list(commits.glob("*.json"))) if commits.is_dir() else 0
        worker = worker or worker_below(driver.pid)
        for name, pid in (("driver", driver.pid), ("worker", worker)):
            if pid is not None and 0 < done < IMAGES:
                try:
                    looks[name].append(look_at(pid, done))
                except (OSError, KeyError):  # it is ending
                    continue
        if done >= told and looks["worker"] and looks["driver"]:
            told = done + IMAGES // 10
            print(looks["driver"][-1], looks["worker"][-1], flush=True)
    return looks


def slope(looks: list[Look], of: Callable[[Look], float]) -> float:
    """Growth a thousand images, by least squares, once warm."""
    steady = [look for look in looks if look.images >= WARM * IMAGES]
    if len({look.images for look in steady}) < 3:
        raise RuntimeError(f"{len(steady)} looks at {IMAGES} images are too few for a slope")
    return float(np.polyfit([look.images / 1000 for look in steady], [of(look) for look in steady], 1)[0])


def figures(looks: list[Look]) -> dict[str, object]:
    steady = [look for look in looks if look.images >= WARM * IMAGES]
    return {
        "mb_per_1000_images": round(slope(looks, lambda look: look.memory), 3),
        "mb_first_last": [round(steady[0].memory), round(steady[-1].memory)],
        "files_per_1000_images": round(slope(looks, lambda look: look.files), 3),
        "files_first_last": [steady[0].files, steady[-1].files],
        "threads_per_1000_images": round(slope(looks, lambda look: look.threads), 3),
        "threads_first_last": [steady[0].threads, steady[-1].threads],
    }


def main() -> None:
    """Run the job and tell how its processes grew."""
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "COLUMNS": "120"}
    command = Path(sys.executable).with_name("condinst")
    began = time.monotonic()
    try:
        with images() as endpoint:
            spec = write_spec(folder, endpoint)
            log = (folder / "log").open("wb")
            with subprocess.Popen([command, "run", spec], env=environment, stdout=log, stderr=log) as driver:
                looks = watch(driver, folder / "out")
            if driver.returncode:
                raise RuntimeError((folder / "log").read_text()[-2000:])
        told = {name: figures(seen) for name, seen in looks.items()}
        harness.report("soak", None, {"images": IMAGES, "seconds": round(time.monotonic() - began), **told})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
