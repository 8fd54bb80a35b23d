"""The odd and broken images as one job: each file ends as its manifest says, in how long, in what memory.

`condinst run` on Ray with one worker and the demo model over `ODD_IMAGES_DIR`; every process of the job is
looked at from outside while it works. `make bench BENCH=odd`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline import tables
from tests.bench import harness
from tests.conftest import SHARED
from tests.integration.test_odd_images import is_as_expected

FOLDER = Path(os.environ.get("ODD_IMAGES_DIR", SHARED / "data" / "odd-images"))
EVERY = 0.05
"""Seconds between two looks at the processes."""


def resident() -> Iterator[tuple[str, int]]:
    """Name and resident bytes of each process of the job."""
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_text().replace("\0", " ")
            environment = (entry / "environ").read_bytes()
            if (
                b"BENCH_ODD=" in environment
                and not line.startswith("ray::IDLE")
                and "site-packages/ray" not in line
            ):
                pages = int((entry / "statm").read_text().split()[1])
                yield line[:60], pages * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue


def watch(ended: threading.Event, peaks: dict[str, int]) -> None:
    while not ended.wait(EVERY):
        for name, size in resident():
            peaks[name] = max(size, peaks.get(name, 0))


def outcomes(output: Path) -> dict[str, dict[str, Any]]:
    """What became of each file, by its name."""
    columns = ["uri", "status", "error", "width", "height"]
    found = {}
    for row in tables.open(str(output)).images(columns).to_pylist():
        rejected = row["status"] not in ("ok", "empty", "nodata")
        found[unquote(row["uri"]).rpartition("/")[2]] = {
            "status": row["status"] if rejected or row["status"] == "nodata" else "pixels",
            "size": [row["width"], row["height"]],
            "reason": row["error"],
        }
    return found


def main() -> None:
    """Run the job, hold it against the manifest, and tell its time and memory."""
    entries = json.loads((FOLDER / "manifest.json").read_text())["files"]
    folder = Path(tempfile.mkdtemp(prefix="odd-", dir="/tmp"))
    spec = folder / "odd.yaml"
    spec.write_text(
        f"kind: segment\nname: odd\ninput: {{uri: {FOLDER}}}\nmodel: {{weights: demo}}\n"
        f"output: {{uri: {folder}/out}}\n"
    )
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "BENCH_ODD": "1"}
    ended, peaks = threading.Event(), dict[str, int]()
    watcher = threading.Thread(target=watch, args=(ended, peaks))
    watcher.start()
    try:
        began = time.monotonic()
        command = [Path(sys.executable).with_name("condinst"), "run", spec]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found = outcomes(folder / "out")
    finally:
        ended.set()
        watcher.join()
        shutil.rmtree(folder, ignore_errors=True)
    wrong = [
        f"{entry['file']} ({entry['expected']}): {found.get(Path(entry['file']).name)}"
        for entry in entries
        if not is_as_expected(entry, found.get(Path(entry["file"]).name, {"status": "no row", "reason": ""}))
    ]
    for line in [*wrong, *(f"{size / 2**20:7.0f} MiB {name}" for name, size in sorted(peaks.items()))]:
        print(line)
    figures = {
        "files": len(entries),
        "as_expected": len(entries) - len(wrong),
        "seconds": round(seconds, 1),
        "peak_mib": round(max(peaks.values()) / 2**20),
    }
    harness.report("odd", None, figures)


if __name__ == "__main__":
    main()
