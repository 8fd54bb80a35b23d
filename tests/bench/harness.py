"""What every benchmark shares: repeated timing, memory peaks, a description of the machine, one JSON line."""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest run, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def figures(self) -> dict[str, float | int]:
        return {
            "median_s": round(self.median, 5),
            "spread": round(self.spread, 3),
            "repeats": len(self.seconds),
        }


def measure(run: Callable[[], object], repeats: int, warmup: int = 1) -> Timing:
    """Times `run`, after `warmup` runs that do not count."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds))


def measure_in_turn(
    runs: Sequence[Callable[[], object]], repeats: int, warmup: int = 1
) -> tuple[Timing, ...]:
    """Times several in turn, so that what else the machine does falls on all."""
    rounds = [[measure(run, 1, 0 if number else warmup) for run in runs] for number in range(repeats)]
    return tuple(Timing(tuple(one.seconds[0] for one in own)) for own in zip(*rounds, strict=True))


def measure_pair(
    baseline: Callable[[], object], ours: Callable[[], object], repeats: int, warmup: int = 1
) -> tuple[Timing, Timing]:
    """Times both in turn."""
    first, second = measure_in_turn([baseline, ours], repeats, warmup)
    return first, second


def memory_peak(prepare: Callable[..., Callable[[], object]], *arguments: object) -> int:
    """Bytes by which a run grows a fresh process, at its peak, beyond what `prepare` left there.

    `prepare(*arguments)`, a function of a module, is called in that process and returns the run.
    """
    return seconds_and_peak(prepare, *arguments)[1]


def seconds_and_peak(prepare: Callable[..., Callable[[], object]], *arguments: object) -> tuple[float, int]:
    """The same, and how long the run took there."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(sender, torch.get_num_threads(), prepare, arguments))
    process.start()
    sender.close()
    seconds, growth = receiver.recv()
    process.join()
    return seconds, growth


def scaling(
    bench: str,
    sizes: Sequence[int],
    run: Callable[[int], dict[str, float]],
    prepare: Callable[[int], Callable[[], object]],
    cost: Callable[[dict[str, float]], float],
) -> None:
    """Runs each size and prints a line for it, with the `memory_peak` of `prepare`; then the report.

    Sizes may be given on the command line. The ratio is of `cost`, of the largest to that of the smallest.
    """
    rows = []
    for size in [int(size) for size in sys.argv[1:]] or list(sizes):
        row = run(size)
        row["memory_mib"] = round(memory_peak(prepare, size) / 2**20)
        print(row, flush=True)
        rows.append(row)
    report(bench, cost(rows[-1]) / cost(rows[0]), {"sizes": rows})


def _peak(sender, threads, prepare, arguments) -> None:
    torch.set_num_threads(threads)
    run = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is resident now
    before, began = _status("VmRSS"), time.perf_counter()
    run()
    sender.send((time.perf_counter() - began, _status("VmHWM") - before))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine() -> dict[str, object]:
    """The machine and the versions that figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].split(":")[1].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def report(bench: str, ratio: float | None, figures: dict[str, object]) -> None:
    """Prints the result as one line of JSON, the last of a benchmark's output."""
    head = {"bench": bench} | ({} if ratio is None else {"ratio": round(ratio, 3)})
    print(json.dumps(head | figures | {"machine": machine()}))
