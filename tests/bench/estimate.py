"""What `condinst plan` says that the demo takes, after one run, against what it then takes.

`make bench BENCH=estimate`. The demo's images go into an S3 server, its job runs on Ray into one output, is
planned by that run for another one, and runs into it. Seconds are those that the run tells of itself,
requests those in the server's log; the ratios are of planned to measured.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from jobs.estimate import READ_PRICE, WRITE_PRICE
from pipeline.storage import Store
from tests.bench.harness import report
from tests.bench.s3 import put_folder, s3_server

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def condinst(*arguments: str) -> str:
    """What the installed command prints."""
    command = [str(Path(sys.executable).with_name("condinst")), *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    return done.stdout


def planned(shown: str) -> dict[str, float]:
    """Seconds, writes and reads that a plan tells."""
    time = re.search(r"estimate +(.+?) on \d+ workers", shown)
    requests = re.search(r"requests +([\d,]+) writes and listings, ([\d,]+) reads: \$([\d.]+)", shown)
    assert time, shown
    assert requests, shown
    seconds = sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+) ?(s|min|h)\b", time[1]))
    writes, reads = (int(requests[n].replace(",", "")) for n in (1, 2))
    return {"seconds": seconds, "writes": writes, "reads": reads, "dollars": float(requests[3])}


def counted(log: str) -> dict[str, float]:
    """Writes with listings, and reads, in a server's log."""
    by = Counter(re.findall(r"(GET|PUT|HEAD|POST|DELETE) /", log))  # some lines are in colour
    listings = len(re.findall(r"GET \S+list-type=2", log))
    writes, reads = by["PUT"] + by["POST"] + listings, by["GET"] + by["HEAD"] - listings
    return {"writes": writes, "reads": reads, "dollars": writes * WRITE_PRICE + reads * READ_PRICE}


def main() -> None:
    """Run, plan, run again; print both sides and their ratios."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, tempfile.TemporaryFile() as log:
        folder = Path(name)
        condinst("demo", "--output", str(folder))
        with s3_server(log) as bucket:
            put_folder(folder / "fields" / "images", "fields/")
            put_folder(folder / "mosaic", "mosaic/")
            spec = yaml.safe_load((folder / "demo.yaml").read_text())
            for section, place in zip(spec["input"], ("fields", "mosaic"), strict=True):
                section["uri"] = f"{bucket}/{place}"
            for output in ("first", "second"):
                spec["output"] = {"uri": f"{bucket}/{output}"}
                (folder / f"{output}.yaml").write_text(yaml.safe_dump(spec))
            condinst("run", str(folder / "first.yaml"))
            shown = condinst("plan", str(folder / "second.yaml"), "--like", f"{bucket}/first")
            print(shown, flush=True)
            before = log.seek(0, os.SEEK_END)
            condinst("run", str(folder / "second.yaml"))
            log.seek(before)
            took = counted(log.read().decode(errors="replace"))
            took["seconds"] = json.loads(Store.open(f"{bucket}/second").get("summary.json"))["run"]["seconds"]
    said = planned(shown)
    ratios = {key: round(said[key] / took[key], 3) for key in said}
    report("estimate", said["seconds"] / took["seconds"], {"planned": said, "took": took, "ratios": ratios})


if __name__ == "__main__":
    main()
