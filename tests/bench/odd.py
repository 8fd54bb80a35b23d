"""The odd and broken images as one job: each file ends as its manifest says, in how long, in what memory.

`condinst run` on Ray with one worker and the demo model over `ODD_IMAGES_DIR`; every process of the job is
looked at from outside while it works. `make bench BENCH=odd`.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil

from pipeline import tables
from tests.bench import harness
from tests.bench.processes import Memory
from tests.command import COMMAND
from tests.conftest import SHARED
from tests.integration.test_odd_images import is_as_expected

FOLDER = Path(os.environ.get("ODD_IMAGES_DIR", SHARED / "data" / "odd-images"))
EVERY = 0.05
"""Seconds between two looks at the processes."""


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
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    try:
        began = time.monotonic()
        log = (folder / "log").open("wb")
        run = subprocess.Popen([COMMAND, "run", spec], env=environment, stdout=log, stderr=log)
        memory = Memory(psutil.Process(run.pid), EVERY)
        code = run.wait()
        seconds, held = time.monotonic() - began, memory.stop()
        if code:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        found = outcomes(folder / "out")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wrong = [
        f"{entry['file']} ({entry['expected']}): {found.get(Path(entry['file']).name)}"
        for entry in entries
        if not is_as_expected(entry, found.get(Path(entry["file"]).name, {"status": "no row", "reason": ""}))
    ]
    for line in wrong:
        print(line)
    figures = {
        "files": len(entries),
        "as_expected": len(entries) - len(wrong),
        "seconds": round(seconds, 1),
        "most_mib": held,
    }
    harness.report("odd", None, figures)


if __name__ == "__main__":
    main()
